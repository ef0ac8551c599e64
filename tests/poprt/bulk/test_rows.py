"""Columns of answers and of errors, by the task of a model."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from poprt.bulk.columns import Columns
from poprt.bulk.rows import NOT_FINITE, RowAnswerer
from poprt.errors import InputError, PoprtError, RunnerClosedError
from poprt.text import TextModel
from tests.poprt.bulk.jobs import CONFIG, model, vectors
from tests.text_folders import HIDDEN


def answered(kind: str, texts: list[Any], **options: Any) -> list[dict[str, Any]]:
    """The rows that a model of a kind makes of texts."""
    with TextModel(model(kind), CONFIG, threads=1) as own:
        answers = asyncio.run(RowAnswerer(own, **options).answers(texts))
    return pa.table({"value": answers.values, "error": answers.errors}).to_pylist()


def test_a_bad_text_costs_its_own_row_alone() -> None:
    rows = answered("embed", ["the bank", None, "\ud83d", 3, PoprtError("the line is none"), "", "old"])
    assert [row["error"] is None for row in rows] == [True, False, False, False, False, True, True]
    assert [row["value"] is None for row in rows] == [False, True, True, True, True, False, False]
    np.testing.assert_allclose([rows[0]["value"], rows[6]["value"]], vectors(["the bank", "old"]), atol=2e-5)
    assert "expected a string, got NoneType" in rows[1]["error"]
    assert "half of a surrogate pair" in rows[2]["error"]
    assert rows[4]["error"] == "the line is none"


def test_no_texts_are_no_rows() -> None:
    assert answered("embed", []) == []
    assert [row["value"] for row in answered("embed", [None])] == [None]


def test_embeddings_take_prompts_and_sizes() -> None:
    rows = answered("embed", ["bank"], prompt_name="query", dimensions=8)
    assert len(rows[0]["value"]) == 8
    np.testing.assert_allclose(rows[0]["value"], vectors(["how my bank"])[0, :8], atol=2e-5)
    with pytest.raises(InputError, match="'nobody'"):
        answered("embed", ["bank"], prompt_name="nobody")
    with pytest.raises(InputError, match="dimensions is 9"):
        answered("embed", ["bank"], dimensions=9)


def test_where_all_fail_together_each_is_asked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = TextModel.aencode

    async def strict(self: TextModel, texts: list[str], **options: Any) -> Any:
        if "bad" in texts:
            raise InputError("text 0: is bad")
        return await encode(self, texts, **options)

    monkeypatch.setattr(TextModel, "aencode", strict)
    rows = answered("embed", ["bank", "bad", "old"])
    assert [row["error"] for row in rows] == [None, "text 0: is bad", None]
    np.testing.assert_allclose([rows[0]["value"], rows[2]["value"]], vectors(["bank", "old"]), atol=2e-5)


def test_an_embedding_that_is_no_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: TextModel, texts: list[str], **options: Any) -> Any:
        values = np.ones((len(texts), HIDDEN), np.float32)
        values[0, 3] = np.nan
        return values

    monkeypatch.setattr(TextModel, "aencode", broken)
    rows = answered("embed", ["bank", "old"])
    assert [row["error"] for row in rows] == [NOT_FINITE, None]
    assert rows[0]["value"] is None


def test_a_closed_model_ends_the_job_instead_of_filling_the_error_column() -> None:
    with TextModel(model(), CONFIG, threads=1) as own:
        answerer = RowAnswerer(own)
    with pytest.raises(RunnerClosedError):
        asyncio.run(answerer.answers(["bank"]))


def test_labels_and_entities_are_those_of_the_model() -> None:
    with TextModel(model("classify"), CONFIG, threads=1) as own:
        expected = own.predict(["the bank", "old"])
    rows = answered("classify", ["the bank", None, "old"])
    assert [row["value"] and row["value"]["label"] for row in rows] == [
        expected[0]["label"],
        None,
        expected[1]["label"],
    ]
    assert rows[0]["value"]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
    with TextModel(model("tag"), CONFIG, threads=1) as own:
        entities = own.tag("anna bought bread in paris", aggregation_strategy="simple")
    (row,) = answered("tag", ["anna bought bread in paris"])
    assert [(item["entity_group"], item["start"], item["end"]) for item in row["value"]] == [
        (item["entity_group"], item["start"], item["end"]) for item in entities
    ]


@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        ("rerank", {}, "the model is for reranking; rows of texts need one for embedding"),
        ("classify", {"dimensions": 8}, "prompt_name, dimensions: are for embeddings"),
    ],
)
def test_a_model_of_another_kind_is_refused(kind: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PoprtError, match=complaint):
        answered(kind, [], **options)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (Columns("body"), "there is no column 'body'; the columns are 'text', 'error'"),
        (Columns(), "error_column: there is a column 'error' already"),
        (Columns(output="text", error="why"), "output_column: there is a column 'text' already"),
        (Columns(output="x", error="x"), "both are 'x'"),
    ],
)
def test_columns_must_be_there_or_free(columns: Columns, complaint: str) -> None:
    with pytest.raises(PoprtError, match=complaint):
        columns.check(["text", "error"])


def test_what_is_wrong_with_a_row_already_stays_beside_its_answer() -> None:
    table = pa.table({"id": [1, None, None], "text": ["bank", "old", None]})

    async def rows() -> pa.Table:
        with TextModel(model(), CONFIG, threads=1) as own:
            return await Columns().answered(table, RowAnswerer(own), [None, "field 'id': is bad", "no line"])

    result = asyncio.run(rows()).to_pylist()
    assert [row["error"] for row in result] == [None, "field 'id': is bad", "no line"]
    assert [row["embedding"] is None for row in result] == [False, False, True]


def test_bytes_that_are_no_text_are_an_error_of_their_row() -> None:
    broken = pa.array([b"bank", b"\xff", b"old"]).view(pa.string())

    async def rows() -> pa.Table:
        with TextModel(model(), CONFIG, threads=1) as own:
            return await Columns().answered(pa.table({"text": broken}), RowAnswerer(own))

    errors = asyncio.run(rows())["error"].to_pylist()
    assert errors[0] is errors[2] is None
    assert "no UTF-8: byte 0xFF" in errors[1]
