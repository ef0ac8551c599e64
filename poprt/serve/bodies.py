"""JSON of requests and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import numpy.typing as npt
import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError, WithJsonSchema, model_validator

from poprt.serve.errors import BadRequest, BatchTooLarge, EmptyBatch, Unprocessable
from poprt.serve.options import ServeOptions

#: Numbers that are written at once. After so many the event loop does something else.
_NUMBERS_AT_ONCE = 1 << 15
_TEXTS_SCHEMA: dict[str, Any] = {
    "description": "one text, or a list of texts",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
#: A field with one text or a list of them; see :func:`texts_of`.
TextsField = Annotated[Any, WithJsonSchema(_TEXTS_SCHEMA)]


class Body(BaseModel):
    """What a request says. Fields that are not known are not looked at; null is as good as left out."""

    model_config = ConfigDict(strict=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or None not in fields.values():
            return fields
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in fields.items() if value is not None or name not in optional}


B = TypeVar("B", bound=Body)


async def read_object(request: Request) -> dict[str, Any]:
    """The object in a request's body, whatever its Content-Type.

    Raises:
        BadRequest: it is no JSON. NaN, numbers beyond float64 and halves of surrogate pairs are none.
        Unprocessable: it is no object.
    """
    try:
        value = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Unprocessable(f"the body: expected an object, got {kind_of(value)}")
    return value


def checked(kind: type[B], fields: dict[str, Any]) -> B:
    """The fields as ``kind`` has them; raise Unprocessable, which names the first that is wrong."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Unprocessable(f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}", field) from None


def texts_of(value: Any, field: str) -> list[str]:
    """One text, or a list of texts, as a list.

    Raises:
        EmptyBatch: the list is empty.
        Unprocessable: it is something else; token ids are refused by name.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise Unprocessable(f"{field}: expected a string or a list of strings, got {kind_of(value)}", field)
    if not value:
        raise EmptyBatch(f"{field}: the list is empty", field)
    for number, item in enumerate(value):
        if not isinstance(item, str):
            raise _no_text(item, number, field)
    return value


def _no_text(item: Any, number: int, field: str) -> Unprocessable:
    if _are_ids(item):
        return Unprocessable(
            f"{field}: got token ids, which mean nothing without the tokenizer that made them: send texts "
            "(LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False)",
            field,
        )
    return Unprocessable(f"{field}[{number}]: expected a string, got {kind_of(item)}", field)


def _are_ids(item: Any) -> bool:
    """Whether an item of a list is a token id, or a list of them."""
    first = item[0] if isinstance(item, list) and item else item
    return isinstance(first, int) and not isinstance(first, bool)


def kind_of(value: Any) -> str:
    """What JSON calls a value."""
    names = {bool: "true or false", dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), "a number")


def check_batch(count: int, options: ServeOptions, field: str) -> None:
    """Raise BatchTooLarge for more texts than a request may have."""
    limit = options.max_client_batch
    if limit and count > limit:
        raise BatchTooLarge(f"{field}: {count} texts, one request may have {limit} (--max-client-batch)", field)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value, with arrays of numpy in it, as JSON."""
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), status, headers, "application/json")


async def dump_list(items: Sequence[Any] | npt.NDArray[Any], numbers_each: int) -> bytes:
    """A list as JSON. The event loop gets its turn in between where it is a long one.

    Args:
        items: what is in it; arrays of numpy must be contiguous.
        numbers_each: how many numbers an item has.
    """
    step = max(1, _NUMBERS_AT_ONCE // max(1, numbers_each))
    parts = []
    for start in range(0, len(items), step):
        if start:
            await asyncio.sleep(0)
        parts.append(orjson.dumps(items[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
    return b"[" + b",".join(parts) + b"]"
