"""The protocol over HTTP: ``/v2/...``."""

from __future__ import annotations

import asyncio
import zlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from poprt.serve.bodies import json_response
from poprt.serve.calls import Call, call_of, watched
from poprt.serve.errors import BadRequest, ServeError, TooLong
from poprt.serve.kserve import documents, metadata
from poprt.serve.kserve.answering import counted
from poprt.serve.kserve.codec import JSON_LENGTH, Body, read_json, read_request, write_response
from poprt.serve.models import ServedModel
from poprt.serve.routing import route_class, state_of

#: Bytes from which an answer is compressed in another thread: it takes milliseconds.
_LARGE = 64 << 10
#: ``wbits`` of zlib for each coding.
_CODINGS = {"gzip": 31, "deflate": 15}
#: What other servers have under ``/v2`` -> why it is not here.
_REFUSED = {
    "repository/models/{name:path}/load": "models are named when the server starts, and not loaded later",
    "repository/models/{name:path}/unload": "models are named when the server starts, and not unloaded later",
    "systemsharedmemory/{rest:path}": "shared memory is not offered; send tensors in the request",
    "cudasharedmemory/{rest:path}": "shared memory is not offered; send tensors in the request",
    "trace/setting": "traces are not offered",
    "models/{name:path}/trace/setting": "traces are not offered",
    "logging": "logging is set when the server starts",
}


def _form(error: ServeError) -> tuple[int, Any]:
    """An error as the protocol writes it. A tensor that is too long is a wrong one, not a body that is too large."""
    return 400 if isinstance(error, TooLong) else error.status, {"error": error.message}


router = APIRouter(prefix="/v2", route_class=route_class(_form), tags=["Open Inference Protocol (KServe v2)"])


@router.get("", summary="Server metadata")
async def server_metadata() -> Response:
    """Name, version and extensions of the server."""
    return json_response(metadata.server_metadata())


@router.get("/health/live", summary="Whether the server runs")
async def live() -> Response:
    """200 as long as the server answers at all."""
    return json_response({"live": True})


@router.get("/health/ready", summary="Whether requests are answered", responses=documents.NOT_READY)
async def ready(request: Request) -> Response:
    """200 where every model runs; 503 where one does not, or the server is about to end."""
    is_ready = metadata.is_ready(state_of(request))
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


@router.get("/models/stats", summary="Statistics of all models")
async def all_statistics(request: Request) -> Response:
    """What was asked of each model by this protocol."""
    return json_response(
        {"model_stats": [metadata.model_statistics(model) for model in state_of(request).models.values()]}
    )


@router.get("/models/{name:path}/ready", summary="Model readiness", responses=documents.NOT_READY | documents.NOT_FOUND)
@router.get(
    "/models/{name:path}/versions/{version}/ready",
    summary="Model readiness",
    responses=documents.NOT_READY | documents.NOT_FOUND,
)
async def model_ready(request: Request, name: str, version: str = "") -> Response:
    """200 where the model answers, else 503."""
    is_ready = _model(request, name, version).ready and not state_of(request).draining
    return json_response({"name": name, "ready": is_ready}, 200 if is_ready else 503)


@router.get("/models/{name:path}/config", summary="Model configuration", responses=documents.NOT_FOUND)
@router.get(
    "/models/{name:path}/versions/{version}/config", summary="Model configuration", responses=documents.NOT_FOUND
)
async def model_config(request: Request, name: str, version: str = "") -> Response:
    """The configuration as Triton writes it."""
    limit = state_of(request).options.max_client_batch
    return json_response(metadata.model_config(_model(request, name, version), limit))


@router.get("/models/{name:path}/stats", summary="Model statistics", responses=documents.NOT_FOUND)
@router.get("/models/{name:path}/versions/{version}/stats", summary="Model statistics", responses=documents.NOT_FOUND)
async def model_statistics(request: Request, name: str, version: str = "") -> Response:
    """What was asked of a model by this protocol."""
    return json_response({"model_stats": [metadata.model_statistics(_model(request, name, version))]})


@router.post(
    "/models/{name:path}/infer", summary="Inference", responses=documents.INFER, openapi_extra=documents.REQUEST
)
@router.post(
    "/models/{name:path}/versions/{version}/infer",
    summary="Inference",
    responses=documents.INFER,
    openapi_extra=documents.REQUEST,
)
async def infer(request: Request, call: Annotated[Call, Depends(call_of)], name: str, version: str = "") -> Response:
    """Texts or arrays in, arrays out: JSON, with tensors in binary form behind it where the client likes."""
    model = _model(request, name, version)
    asked = read_request(await request.body(), request.headers.get(JSON_LENGTH))
    response = await watched(call, request, counted(model, asked, call, state_of(request).options))
    return await _encoded(write_response(response, asked), request.headers.get("accept-encoding", ""))


@router.post(
    "/repository/index", summary="The models", responses=documents.BAD_REQUEST, openapi_extra=documents.INDEX_REQUEST
)
async def repository_index(request: Request) -> Response:
    """Every model with its state."""
    body = await request.body()
    fields = read_json(body) if body else {}
    if not isinstance(fields, dict) or not isinstance(fields.get("ready", False), bool):
        raise BadRequest("expected an object whose 'ready' is true or false")
    return json_response(metadata.repository_index(state_of(request).models.values(), fields.get("ready", False)))


def _refuse(path: str, why: str) -> None:
    async def refused() -> Response:
        raise BadRequest(why)

    router.add_api_route(f"/{path}", refused, methods=["GET", "POST"], include_in_schema=False)


for _path, _why in _REFUSED.items():
    _refuse(_path, _why)


# Behind all that begins so: a name may have slashes.
@router.get("/models/{name:path}", summary="Model metadata", responses=documents.NOT_FOUND)
@router.get("/models/{name:path}/versions/{version}", summary="Model metadata", responses=documents.NOT_FOUND)
async def model_metadata(request: Request, name: str, version: str = "") -> Response:
    """The tensors of a model. Texts and token ids are listed; a request sends one or the other."""
    return json_response(metadata.model_metadata(_model(request, name, version)))


def _model(request: Request, name: str, version: str) -> ServedModel:
    return metadata.find(state_of(request).models, name, version)


async def _encoded(body: Body, accepted: str) -> Response:
    """The answer, compressed where the client asks for one coding alone.

    That is what Triton's clients do where their user asks for it. HTTP libraries send a list unasked; floats shrink
    little, and to compress them takes longer than to send them.
    """
    headers = {} if body.json_length is None else {JSON_LENGTH: str(body.json_length)}
    media_type = "application/json" if body.json_length is None else "application/octet-stream"
    data, coding = body.data, accepted.strip().lower()
    if coding in _CODINGS:
        headers["Content-Encoding"] = coding
        if len(data) < _LARGE:
            data = _compressed(data, coding)
        else:
            data = await asyncio.to_thread(_compressed, data, coding)
    return Response(data, headers=headers, media_type=media_type)


def _compressed(data: bytes, coding: str) -> bytes:
    packer = zlib.compressobj(1, wbits=_CODINGS[coding])
    return packer.compress(data) + packer.flush()
