"""Rows of files with a row a line: texts, or JSON objects.

A piece is a range of bytes, and has the lines that start there. Nothing has to be counted first: a piece begins behind
the first newline from the byte before it on.
"""

from __future__ import annotations

import json
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from poprt.bulk.parquet_source import check_column
from poprt.errors import PoprtError

#: Bytes of a piece. Where lines have two bytes, its rows are 32,768.
PIECE = 1 << 16
#: Bytes of a line; the row of a longer one has an error.
LONGEST = 16 << 20
#: Bytes of the beginning of a JSON file that say which fields there are, and of which types.
SAMPLE = 1 << 20
_BOM = b"\xef\xbb\xbf"

#: A line, or why it cannot be one.
Line = str | PoprtError
#: What pyarrow raises for a value that is not of a type. Half of a surrogate pair is no string to it.
_MISFITS = (pa.ArrowException, OverflowError, UnicodeEncodeError)


def lines(file: IO[bytes], start: int, end: int) -> Iterator[Line]:
    """The lines that start at bytes ``start`` to ``end``, without their ends.

    Bytes 0 to 4 of ``b"ab\\ncd\\nef"`` -> "ab", "cd".
    """
    file.seek(max(0, start - 1))
    if start:
        _skip_line(file)
    elif file.read(len(_BOM)) != _BOM:
        file.seek(0)
    while file.tell() < end:
        line = file.readline(LONGEST)
        if not line:
            return
        if len(line) == LONGEST and not line.endswith(b"\n"):
            _skip_line(file)
            yield PoprtError(f"the line has more than {LONGEST >> 20} MiB")
            continue
        yield _decoded(line)


def _decoded(line: bytes) -> Line:
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return PoprtError(f"the line is no UTF-8: byte 0x{line[error.start]:02X} at {error.start}")


def _skip_line(file: IO[bytes]) -> None:
    while (part := file.readline(LONGEST)) and not part.endswith(b"\n"):
        pass


class _Lines(ABC):
    """What both kinds of files share."""

    schema: pa.Schema

    def __init__(self, path: Path) -> None:
        self._path = path
        self.pieces = -(-path.stat().st_size // PIECE)

    def read(self, piece: int) -> tuple[pa.Table, list[str | None]]:
        """The rows of a piece, and why a line is none."""
        with self._path.open("rb") as file:
            return self._table(list(lines(file, piece * PIECE, (piece + 1) * PIECE)))

    @abstractmethod
    def _table(self, rows: list[Line]) -> tuple[pa.Table, list[str | None]]:
        """The rows that lines stand for, and why a line is none."""


class TextSource(_Lines):
    """A file with a text a line; an empty line is an empty text."""

    def __init__(self, path: Path, column: str) -> None:
        super().__init__(path)
        self.schema = pa.schema([(column, pa.string())])

    def _table(self, rows: list[Line]) -> tuple[pa.Table, list[str | None]]:
        texts = [line if isinstance(line, str) else None for line in rows]
        errors = [None if isinstance(line, str) else str(line) for line in rows]
        return pa.table([pa.array(texts, pa.string())], self.schema), errors


class JsonSource(_Lines):
    """A file with a JSON object a line; empty lines are no rows.

    The first :data:`SAMPLE` bytes say which fields there are, and of which types. A value that does not fit is null in
    its row, and the row's error says so; it names as well a field that is not among them.

    Raises:
        PoprtError: there is no object at the beginning, or they have no such field of strings.
    """

    def __init__(self, path: Path, column: str) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            rows = [_object(line) for line in lines(file, 0, SAMPLE) if line != ""]
        objects = [row for row in rows if isinstance(row, dict)]
        if rows and not objects:
            raise PoprtError(f"{str(path)!r}: expected a JSON object in each line: {rows[0]}")
        self.schema = _schema(objects) if objects else pa.schema([(column, pa.string())])
        self._names = frozenset(self.schema.names)
        check_column(self.schema, column, path)

    def _table(self, rows: list[Line]) -> tuple[pa.Table, list[str | None]]:
        objects, errors = [], []
        for line in rows:
            if line == "":
                continue
            row = _object(line)
            objects.append({} if isinstance(row, PoprtError) else row)
            errors.append(str(row) if isinstance(row, PoprtError) else self._surplus(row))
        arrays = [_column(field, [row.get(field.name) for row in objects], errors) for field in self.schema]
        return pa.table(arrays, self.schema), errors

    def _surplus(self, row: dict[str, Any]) -> str | None:
        """What to say of a field that the schema lacks; its value is nowhere in the output."""
        name = next((name for name in row if name not in self._names), None)
        return None if name is None else f"field {name!r}: the rows at the beginning of the file do not have it"


def _object(line: Line) -> dict[str, Any] | PoprtError:
    if isinstance(line, PoprtError):
        return line
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return PoprtError(f"the line is no JSON: {error}")
    return row if isinstance(row, dict) else PoprtError(f"the line is no JSON object but {type(row).__name__}")


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    """The fields of rows, in the order in which they come: [{"a": 1}, {"b": "x"}] -> a: int64, b: string."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.schema([(name, _kind([row[name] for row in rows if row.get(name) is not None])) for name in names])


def _kind(values: list[Any]) -> pa.DataType:
    """The type of values; that of the first one where they have none in common."""
    for part in (values, values[:1]):
        try:
            kind = pa.array(part).type
        except _MISFITS:
            continue
        return pa.string() if pa.types.is_null(kind) else kind
    return pa.string()


def _column(field: pa.Field, values: list[Any], errors: list[str | None]) -> pa.Array:
    """Values as an array. What does not fit is null in it, and is told in ``errors``."""
    try:
        array = pa.array(values, field.type)
        # pyarrow cuts 1.5 to an integer, and drops keys that a struct does not have: both without a word.
        if pa.types.is_string(field.type) or array.to_pylist() == values:
            return array
    except _MISFITS:
        pass
    fitting = [value if _fits(value, field.type) else None for value in values]
    for place, (value, kept) in enumerate(zip(values, fitting, strict=True)):
        if value is not None and kept is None and errors[place] is None:
            errors[place] = (
                f"field {field.name!r}: {reprlib.repr(value)} is not of type {field.type}, as at the beginning"
            )
    return pa.array(fitting, field.type)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        return bool(pa.scalar(value, kind).as_py() == value) or value != value  # NaN does not equal itself
    except _MISFITS:
        return False
