"""Texts in, a column of answers and a column of errors out: a bad text costs its own row alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from poprt.errors import InputError, PoprtError, RunnerClosedError
from poprt.text.dimensions import check_dimensions
from poprt.text.facts import CLASSIFICATION, EMBEDDING, TOKEN_CLASSIFICATION
from poprt.text.inputs import check_text
from poprt.text.model import TextModel
from poprt.text.prompts import prompt_text

#: What answers a list of texts.
Answer = Callable[[list[str]], Coroutine[Any, Any, Sequence[Any]]]

NOT_FINITE = "the embedding holds NaN or an infinity: the model's weights or precision are at fault"
#: Not a list of a fixed size: up to version 22, pyarrow cannot read or write one with nulls in Parquet.
VECTOR = pa.list_(pa.float32())
LABEL = pa.struct([("label", pa.string()), ("score", pa.float32())])
ENTITY = pa.struct(
    [
        ("entity_group", pa.string()),
        ("score", pa.float32()),
        ("word", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Answers:
    """Two columns, with a row a text.

    Attributes:
        values: null where there is an error.
        errors: why a row has no value; null where it has one.
    """

    values: pa.Array
    errors: pa.Array


class RowAnswerer:
    """Answers texts by the task of a model.

    | task | value of a row |
    |---|---|
    | embedding | ``list<float32>``, all of one length |
    | sequence-classification | the likeliest label with its score |
    | token-classification | entities, as ``aggregation_strategy="simple"`` gives them |

    Args:
        model: is left open.
        prompt_name, dimensions: of embeddings, as for ``TextModel.encode``.

    Raises:
        PoprtError: the model is for another task, or has no such prompt or size.
    """

    def __init__(self, model: TextModel, prompt_name: str | None = None, dimensions: int | None = None) -> None:
        if model.task not in TASKS:
            raise PoprtError(f"the model is for {model.task}; rows of texts need one for {' or '.join(TASKS)}")
        if model.task != EMBEDDING and (prompt_name is not None or dimensions is not None):
            raise PoprtError(f"prompt_name, dimensions: are for embeddings, and the model is for {model.task}")
        self._answer, self.type = TASKS[model.task](model, prompt_name, dimensions)

    async def answers(self, texts: Sequence[Any]) -> Answers:
        """Answer texts: ["a", None] -> values [[...], null], errors [null, "text: expected a string, got NoneType"].

        Args:
            texts: strings. An error in the place of one, or what is none, becomes the error of its row.

        Raises:
            RunnerClosedError: the model is closed, or a lane of it died.
        """
        errors = [_complaint(text) for text in texts]
        places = [place for place, error in enumerate(errors) if error is None]
        values: list[Any] = [None] * len(texts)
        for place, value in zip(places, await self._good([texts[place] for place in places]), strict=True):
            if isinstance(value, PoprtError):
                errors[place] = str(value)
            elif isinstance(value, np.ndarray) and not np.isfinite(value).all():
                errors[place] = NOT_FINITE
            else:
                values[place] = value
        return Answers(self._column(values), pa.array(errors, pa.string()))

    async def _good(self, texts: list[str]) -> Sequence[Any]:
        """A value or an error for each text. Where all together fail, each is asked for alone."""
        if not texts:
            return []
        try:
            return await self._answer(texts)
        except RunnerClosedError:
            raise
        except PoprtError:
            return await asyncio.gather(*(self._one(text) for text in texts))

    async def _one(self, text: str) -> Any:
        try:
            return (await self._answer([text]))[0]
        except RunnerClosedError:
            raise
        except PoprtError as error:
            return error

    def _column(self, values: list[Any]) -> pa.Array:
        if self.type != VECTOR:
            return pa.array(values, self.type)
        lengths = [0 if value is None else len(value) for value in values]
        offsets = pa.array(np.cumsum([0, *lengths], dtype=np.int32))
        numbers = np.concatenate([np.empty(0, np.float32), *(value for value in values if value is not None)])
        nulls = pa.array([value is None for value in values], pa.bool_())
        return pa.ListArray.from_arrays(offsets, pa.array(numbers), mask=nulls)


def _complaint(text: object) -> str | None:
    if isinstance(text, PoprtError):
        return str(text)
    try:
        check_text(text, "text")
    except InputError as error:
        return str(error)
    return None


def _embedding(model: TextModel, prompt_name: str | None, dimensions: int | None) -> tuple[Answer, pa.DataType]:
    async def answer(texts: list[str]) -> Sequence[Any]:
        return list(await model.aencode(texts, prompt_name=prompt_name, dimensions=dimensions))

    prompt_text(model.facts, prompt_name)  # now: nothing runs for one that is not there
    check_dimensions(model.facts, dimensions)
    return answer, VECTOR


def _label(model: TextModel, *_: Any) -> tuple[Answer, pa.DataType]:
    return model.apredict, LABEL


def _entities(model: TextModel, *_: Any) -> tuple[Answer, pa.DataType]:
    async def answer(texts: list[str]) -> Sequence[Any]:
        results: Sequence[Any] = await model.atag(texts, aggregation_strategy="simple")
        return results

    return answer, pa.list_(ENTITY)


#: Task -> what answers for it, and the type of its values.
TASKS: dict[str, Callable[[TextModel, str | None, int | None], tuple[Answer, pa.DataType]]] = {
    EMBEDDING: _embedding,
    CLASSIFICATION: _label,
    TOKEN_CLASSIFICATION: _entities,
}
