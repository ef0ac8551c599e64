"""Rows of a Parquet file. A piece is a range of rows of one row group."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from poprt.errors import PoprtError

#: Rows of a piece, at most.
ROWS = 1024
#: Bytes that are read at a time of each column: a row group as a whole may be larger than the memory.
BUFFER = 1 << 20


class ParquetSource:
    """Reads a Parquet file.

    A row group can only be read from its beginning, so the place reached in it is kept: pieces in ascending order are
    read once each, and what lies between them is skipped.

    Args:
        path: the file.
        column: the texts.

    Raises:
        PoprtError: it is no Parquet file, or has no such column of strings.
    """

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        except pa.ArrowException as error:
            raise PoprtError(f"{str(path)!r}: cannot be read as Parquet: {error}") from error
        self.schema: pa.Schema = self._file.schema_arrow
        check_column(self.schema, column, path)
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        #: The number of the first piece of each row group, and of the one behind the last.
        self._first = [0, *accumulate(-(-count // ROWS) for count in counts)]
        self.pieces = self._first[-1]
        self._reading = threading.Lock()
        self._batches: Iterator[pa.Table] = iter(())
        self._next = 0  # the piece that it gives next

    def read(self, piece: int) -> tuple[pa.Table, list[str | None]]:
        """The rows of a piece; nothing is wrong with any.

        Raises:
            PoprtError: the file is damaged.
        """
        try:
            with self._reading:
                table = self._read(piece)
        except (pa.ArrowException, OSError, StopIteration) as error:
            raise PoprtError(f"{str(self._path)!r}: cannot be read: {error}") from error
        return table, [None] * len(table)

    def _read(self, piece: int) -> pa.Table:
        group = bisect_right(self._first, piece) - 1
        if not self._first[group] < self._next <= piece:
            self._batches, self._next = self._of_group(group), self._first[group]
        while self._next < piece:
            next(self._batches)
            self._next += 1
        self._next += 1
        return next(self._batches)

    def _of_group(self, group: int) -> Iterator[pa.Table]:
        """Tables of :data:`ROWS` rows, the last one shorter. The reader's own batches end with pages, too."""
        waiting: list[pa.RecordBatch] = []
        count = 0
        for batch in self._file.iter_batches(batch_size=ROWS, row_groups=[group]):
            waiting.append(batch)
            count += len(batch)
            if count >= ROWS:
                table = pa.Table.from_batches(waiting)
                yield table.slice(0, ROWS)
                waiting, count = table.slice(ROWS).to_batches(), count - ROWS
        if count:
            yield pa.Table.from_batches(waiting)


def check_column(schema: pa.Schema, column: str, path: Path) -> None:
    """Raise PoprtError where there is no such column, or it holds no strings."""
    if column not in schema.names:
        raise PoprtError(
            f"{str(path)!r}: there is no column {column!r}; the columns are {', '.join(map(repr, schema.names))}"
        )
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise PoprtError(f"{str(path)!r}: column {column!r} is of type {kind}; expected strings")
