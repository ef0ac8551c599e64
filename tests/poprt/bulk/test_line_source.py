"""Files with a row a line, read in pieces of bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poprt.bulk import line_source
from poprt.bulk.line_source import JsonSource, TextSource
from poprt.errors import PoprtError

TEXTS = ["a", "", "größe", "x" * 40, "the old bank", "", "end"]


def read(source: TextSource | JsonSource) -> tuple[list[dict], list[str | None]]:
    """All rows of all pieces, and their errors."""
    rows, errors = [], []
    for piece in range(source.pieces):
        table, complaints = source.read(piece)
        rows += table.to_pylist()
        errors += complaints
    return rows, errors


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "last"])
def test_each_line_is_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, end: str, last: str
) -> None:
    monkeypatch.setattr(line_source, "PIECE", size)
    path = tmp_path / "a.txt"
    path.write_bytes((end.join([*TEXTS, last])).encode())
    rows, errors = read(TextSource(path, "line"))
    assert [row["line"] for row in rows] == [*TEXTS, *([last] if last else [])]
    assert set(errors) == {None}


def test_an_empty_file_has_no_pieces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert TextSource(tmp_path / "a.txt", "text").pieces == 0


def test_a_mark_of_the_byte_order_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfthe\nbank\n")
    assert [row["text"] for row in read(TextSource(tmp_path / "a.txt", "text"))[0]] == ["the", "bank"]


def test_a_bad_line_is_an_error_of_its_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_source, "LONGEST", 1 << 10)
    monkeypatch.setattr(line_source, "PIECE", 100)
    (tmp_path / "a.txt").write_bytes(b"the\n\xff\xfe\n" + b"x" * 5000 + b"\nbank\n")
    rows, errors = read(TextSource(tmp_path / "a.txt", "text"))
    assert [row["text"] for row in rows] == ["the", None, None, "bank"]
    assert errors[0] is errors[3] is None
    assert "no UTF-8: byte 0xFF at 0" in str(errors[1])
    assert "more than" in str(errors[2])


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_json_lines_keep_all_fields(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "text": "the", "tags": ["a"], "more": {"x": 1.5}},
        {"id": None, "text": "bank", "tags": [], "more": None},
        {"text": "old"},
    ]
    kept, errors = read(JsonSource(jsonl(tmp_path / "a.jsonl", *rows[:2], "", rows[2]), "text"))
    assert kept == [*rows[:2], {"id": None, "text": "old", "tags": None, "more": None}]
    assert errors == [None, None, None]


@pytest.mark.parametrize(
    ("row", "kept", "complaint"),
    [
        ("{", None, "the line is no JSON"),
        ("[" * 100_000, None, "the line is no JSON"),
        ([1], None, "no JSON object but list"),
        ({"id": "x", "text": "a"}, "a", "field 'id': 'x' is not of type int64"),
        ({"id": 1.5, "text": "a"}, "a", "field 'id': 1.5 is not of type int64"),
        ({"id": 1 << 70, "text": "a"}, "a", "field 'id'"),
        ({"id": 1, "text": 3}, None, "field 'text': 3 is not of type string"),
        ({"id": 1, "text": "\ud83d"}, None, "field 'text': '\\ud83d' is not of type string"),
        ({"id": 1, "text": "a", "more": {"x": 1, "y": 2}}, "a", "field 'more'"),
        ({"id": 1, "text": "a", "new": 1}, "a", "field 'new': the rows at the beginning"),
    ],
)
def test_a_row_that_does_not_fit_the_first_ones_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: object, kept: str | None, complaint: str
) -> None:
    first, last = {"id": 1, "text": "the", "more": {"x": 1}}, {"id": 3, "text": "bank", "more": None}
    path = jsonl(tmp_path / "a.jsonl", first, row, last)
    monkeypatch.setattr(line_source, "SAMPLE", 10)  # the first row alone
    rows, errors = read(JsonSource(path, "text"))
    assert (rows[0], rows[2]) == (first, last)
    assert rows[1]["text"] == kept
    assert errors[0] is errors[2] is None
    assert complaint in str(errors[1])


def test_fields_without_a_type_in_common_have_that_of_the_first_value(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "a", "x": 1, "y": None}, {"text": "b", "x": "one", "y": None})
    rows, errors = read(JsonSource(path, "text"))
    assert [row["x"] for row in rows] == [1, None]
    assert errors[0] is None
    assert "'one' is not of type int64" in str(errors[1])


@pytest.mark.parametrize(
    ("line", "column", "complaint"),
    [
        ('{"a": 1}', "text", "there is no column 'text'; the columns are 'a'"),
        ('{"text": 1}', "text", "column 'text' is of type int64; expected strings"),
        ("no", "text", "expected a JSON object in each line: the line is no JSON"),
    ],
)
def test_a_file_without_such_a_column_is_refused(tmp_path: Path, line: str, column: str, complaint: str) -> None:
    with pytest.raises(PoprtError, match=complaint):
        JsonSource(jsonl(tmp_path / "a.jsonl", line), column)
