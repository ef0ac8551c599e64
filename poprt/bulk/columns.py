"""The columns of a job: where its texts stand, and where answers and errors go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from poprt.bulk.rows import RowAnswerer
from poprt.errors import PoprtError


@dataclass(frozen=True)
class Columns:
    """Names of columns.

    Attributes:
        text: the texts.
        output: answers; null where there is none.
        error: why a row has no answer, or lost a field; null where all is well.
    """

    text: str = "text"
    output: str = "embedding"
    error: str = "error"

    def check(self, names: Sequence[str]) -> None:
        """Raise PoprtError unless the texts are among the names of a table's columns, and the others are free."""
        if self.text not in names:
            raise PoprtError(f"there is no column {self.text!r}; the columns are {', '.join(map(repr, names))}")
        for option, name in (("output_column", self.output), ("error_column", self.error)):
            if name in names:
                raise PoprtError(f"{option}: there is a column {name!r} already; give another name")
        if self.output == self.error:
            raise PoprtError(f"output_column, error_column: both are {self.output!r}; give two names")

    def schema(self, schema: pa.Schema, kind: pa.DataType) -> pa.Schema:
        """What :meth:`answered` makes of tables with a schema, where answers are of a type."""
        return schema.append(pa.field(self.output, kind)).append(pa.field(self.error, pa.string()))

    async def answered(
        self, table: pa.Table, answerer: RowAnswerer, errors: Sequence[str | None] | None = None
    ) -> pa.Table:
        """A table with answers and errors beside its columns.

        Args:
            table: has the texts.
            answerer: answers them.
            errors: what is wrong with each row already. A text is answered all the same, if there is one.
        """
        before = errors if errors is not None else [None] * len(table)
        texts = [
            PoprtError(error) if text is None and error is not None else text
            for text, error in zip(values(table.column(self.text)), before, strict=True)
        ]
        answers = await answerer.answers(texts)
        after = [old or new for old, new in zip(before, answers.errors.to_pylist(), strict=True)]
        table = table.append_column(pa.field(self.output, answers.values.type), answers.values)
        return table.append_column(pa.field(self.error, pa.string()), pa.array(after, pa.string()))


def values(column: pa.ChunkedArray) -> list[object]:
    """The values of a column, with an error in the place of a string that is none."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(item) for item in column]


def _value(item: pa.Scalar) -> object:
    try:
        return item.as_py()
    except UnicodeDecodeError as error:
        return PoprtError(f"the text is no UTF-8: byte 0x{error.object[error.start]:02X} at {error.start}")
