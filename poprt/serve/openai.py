"""Embeddings as OpenAI's API gives them: ``/v1/embeddings`` and ``/v1/models``."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from poprt.serve.bodies import Body, TextsField, check_batch, checked, dump_list, json_response, read_object, texts_of
from poprt.serve.calls import Call, call_for, watched
from poprt.serve.errors import BatchTooLarge, NotFound, ServeError, TooLong, Unprocessable
from poprt.serve.models import ServedModel
from poprt.serve.reading import embed
from poprt.serve.routing import answer_schema, array_of, body_schema, errors_schema, object_of, route_class, state_of
from poprt.text.facts import EMBEDDING
from poprt.text.scores import Floats

if TYPE_CHECKING:
    from poprt.serve.options import ServeOptions

#: Errors whose status or code is another one here: OpenAI's API has one status for all that is wrong in a request.
_STATUSES: dict[type[ServeError], int] = {BatchTooLarge: 400, TooLong: 400, Unprocessable: 400}
_CODES: dict[type[ServeError], str] = {TooLong: "context_length_exceeded", NotFound: "model_not_found"}
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_STARTED = int(time.time())


class EmbeddingsRequest(Body):
    """A request for embeddings."""

    input: TextsField
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


def openai_form(error: ServeError) -> tuple[int, Any]:
    """An error as OpenAI's API writes it."""
    status = _STATUSES.get(type(error), error.status)
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    code = _CODES.get(type(error), error.code)
    return status, {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


_TEXT, _WHOLE = {"type": "string"}, {"type": "integer"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_ERROR = object_of(
    {"error": object_of({"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL})}
)
_EMBEDDING = object_of(
    {
        "object": {"const": "embedding"},
        "index": _WHOLE,
        "embedding": {
            "anyOf": [
                array_of({"type": "number"}),
                {"type": "string", "description": "base64 of little-endian float32"},
            ]
        },
    }
)
_ANSWER = object_of(
    {
        "object": {"const": "list"},
        "data": array_of(_EMBEDDING),
        "model": _TEXT,
        "usage": object_of({"prompt_tokens": _WHOLE, "total_tokens": _WHOLE}),
    }
)
_MODEL = object_of({"id": _TEXT, "object": {"const": "model"}, "created": _WHOLE, "owned_by": _TEXT})
_MODELS = object_of({"object": {"const": "list"}, "data": array_of(_MODEL)})

router = APIRouter(prefix="/v1", route_class=route_class(openai_form), tags=["OpenAI"])


@router.post(
    "/embeddings",
    summary="Embeddings",
    responses={
        **answer_schema(_ANSWER, "One embedding for each text, in their order."),
        **errors_schema(_ERROR, 400, 401, 404, 413, 415, 429, 500, 503, 504),
    },
    openapi_extra=body_schema(EmbeddingsRequest),
)
async def embeddings(request: Request) -> Response:
    """Embeddings of one text or several. Token ids are refused: they are another tokenizer's."""
    call, state = call_for(request), state_of(request)
    body = checked(EmbeddingsRequest, await read_object(request))
    model = state.models.find(body.model)
    call.model = model.name
    return await watched(call, request, _embeddings(model, body, call, state.options))


@router.get(
    "/models", summary="The models", responses=answer_schema(_MODELS, "All models.") | errors_schema(_ERROR, 401)
)
async def models(request: Request) -> Response:
    """All models, also those that are no embedding models."""
    call_for(request)
    data = [_described(model) for model in state_of(request).models.values()]
    return json_response({"object": "list", "data": data})


@router.get(
    "/models/{name:path}",
    summary="One model",
    responses=answer_schema(_MODEL, "The model.") | errors_schema(_ERROR, 401, 404),
    openapi_extra={"parameters": [{"name": "name", "in": "path", "required": True, "schema": _TEXT}]},
)
async def model(request: Request) -> Response:
    """One model by its name."""
    call_for(request)
    return json_response(_described(state_of(request).models.find(request.path_params["name"])))


async def _embeddings(model: ServedModel, body: EmbeddingsRequest, call: Call, options: ServeOptions) -> Response:
    text = model.text_model(EMBEDDING)
    texts = texts_of(body.input, "input")
    check_batch(len(texts), options, "input")
    rows, tokens = await embed(
        model, text.with_prompt(texts), call, truncate=options.auto_truncate, dimensions=body.dimensions
    )
    data = await dump_list(_items(rows, body.encoding_format), rows.shape[1])
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = orjson.dumps({"object": "list", "model": model.name, "usage": usage})
    return Response(b'{"data":' + data + b"," + rest[1:], media_type="application/json")


def _items(rows: Floats, encoding: str) -> list[dict[str, Any]]:
    values: Any = rows
    if encoding == "base64":
        values = [base64.b64encode(row.tobytes()).decode("ascii") for row in rows.astype(np.dtype("<f4"), copy=False)]
    return [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)]


def _described(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": _STARTED, "owned_by": "poprt"}
