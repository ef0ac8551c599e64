"""The rows of a file, in pieces that can be read one by one, in any order, by any machine that sees the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from poprt.bulk.line_source import JsonSource, TextSource
from poprt.bulk.parquet_source import ParquetSource
from poprt.errors import PoprtError


class Source(Protocol):
    """A file of rows.

    Attributes:
        schema: of every piece.
        pieces: how many there are.
    """

    schema: pa.Schema
    pieces: int

    def read(self, piece: int) -> tuple[pa.Table, list[str | None]]:
        """The rows of a piece, and what is wrong with each; None where nothing is."""


#: The end of a file's name -> what reads it, with the column of the texts.
KINDS: dict[str, Callable[[Path, str], Source]] = {
    ".parquet": ParquetSource,
    ".jsonl": JsonSource,
    ".ndjson": JsonSource,
    ".txt": TextSource,
}


def open_source(path: Path, column: str) -> Source:
    """The rows of a file.

    Args:
        path: its name ends with one of :data:`KINDS`.
        column: the texts; of a ``.txt``, what the column of its lines is called.

    Raises:
        PoprtError: it is no such file, or has no such column of strings.
        OSError: it cannot be read.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise PoprtError(f"{str(path)!r}: expected a file that ends with {', '.join(KINDS)}")
    if not path.exists():
        raise PoprtError(f"{str(path)!r}: there is no such file")
    if not path.is_file():
        raise PoprtError(f"{str(path)!r}: is no file; expected one that ends with {', '.join(KINDS)}")
    return kind(path, column)
