"""Parquet files, read in pieces of row groups."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poprt.bulk.parquet_source import ROWS, ParquetSource
from poprt.errors import PoprtError
from tests.poprt.bulk.jobs import parquet_file

COUNT = 5000
TEXTS = [f"text {number}" for number in range(COUNT)]


@pytest.mark.parametrize("rows", [10, ROWS - 1, ROWS, 3000, COUNT])
@pytest.mark.parametrize("order", ["ascending", "descending", "odd first"])
def test_each_row_is_in_one_piece_whatever_the_order(tmp_path: Path, rows: int, order: str) -> None:
    source = ParquetSource(parquet_file(tmp_path / "a.parquet", TEXTS, rows), "text")
    numbers = list(range(source.pieces))
    numbers = {"ascending": numbers, "descending": numbers[::-1], "odd first": [*numbers[1::2], *numbers[::2]]}[order]
    tables = {number: source.read(number)[0] for number in numbers}
    assert all(0 < len(table) <= ROWS for table in tables.values())
    assert [text for number in range(source.pieces) for text in tables[number]["text"].to_pylist()] == TEXTS


def test_what_lies_between_two_pieces_is_skipped_and_not_read_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ParquetSource(parquet_file(tmp_path / "a.parquet", TEXTS, COUNT), "text")
    opened = []
    of_group = source._of_group
    monkeypatch.setattr(source, "_of_group", lambda group: opened.append(group) or of_group(group))
    for number in (0, 2, 4):
        source.read(number)
    assert opened == [0]
    source.read(1)
    assert opened == [0, 0]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_strings_of_all_types_are_texts(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["a", "b"], kind)}), tmp_path / "a.parquet")
    source = ParquetSource(tmp_path / "a.parquet", "text")
    assert source.read(0)[0]["text"].to_pylist() == ["a", "b"]


def test_an_empty_file_has_no_pieces(tmp_path: Path) -> None:
    assert ParquetSource(parquet_file(tmp_path / "a.parquet", []), "text").pieces == 0


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        ("body", "there is no column 'body'; the columns are 'id', 'text'"),
        ("id", "column 'id' is of type int64; expected strings"),
    ],
)
def test_a_column_that_holds_no_texts_is_refused(tmp_path: Path, column: str, complaint: str) -> None:
    with pytest.raises(PoprtError, match=complaint):
        ParquetSource(parquet_file(tmp_path / "a.parquet", ["a"]), column)


def test_a_file_that_is_none_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 is not all")
    with pytest.raises(PoprtError, match="cannot be read as Parquet"):
        ParquetSource(path, "text")
    data = bytearray(parquet_file(path, TEXTS).read_bytes())
    data[100:20000] = bytes(19900)
    path.write_bytes(data)
    with pytest.raises(PoprtError, match="cannot be read"):
        ParquetSource(path, "text").read(0)
