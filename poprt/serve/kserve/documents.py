"""What the OpenAPI document says of ``/v2``: bodies that FastAPI does not read itself, and errors."""

from __future__ import annotations

from typing import Any

_ERROR_BODY = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_DATA = {"type": "array", "description": "values in row-major order, flat or nested as the shape says", "items": {}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _responses(**descriptions: str) -> dict[int | str, dict[str, Any]]:
    """Errors by their status: ``_responses(s404="...")``."""
    return {int(name[1:]): {"description": text, "content": _json(_ERROR_BODY)} for name, text in descriptions.items()}


_TENSOR = {"name": {"type": "string"}, "datatype": {"type": "string"}, "shape": _SHAPE}
_INPUT = _object(["name", "datatype", "shape"], **_TENSOR, parameters=_PARAMETERS, data=_DATA)
_OUTPUT = _object(["name"], name={"type": "string"}, parameters=_PARAMETERS)
_INFER_REQUEST = _object(
    ["inputs"],
    id={"type": "string"},
    parameters=_PARAMETERS,
    inputs={"type": "array", "items": _INPUT},
    outputs={"type": "array", "items": _OUTPUT},
)
_INFER_RESPONSE = _object(
    ["model_name", "model_version", "outputs"],
    model_name={"type": "string"},
    model_version={"type": "string"},
    id={"type": "string"},
    outputs={
        "type": "array",
        "items": _object(["name", "datatype", "shape"], **_TENSOR, parameters=_PARAMETERS, data=_DATA),
    },
)

BAD_REQUEST = _responses(s400="The request is wrong; the message says where.")
NOT_FOUND = _responses(s404="There is no such model, or no such version of it.")
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready.", "content": _json({"type": "object"})}}
INFER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs. In binary form they lie behind the JSON text, whose length a header says.",
        "content": {**_json(_INFER_RESPONSE), "application/octet-stream": {"schema": {"type": "string"}}},
    },
    **BAD_REQUEST,
    **NOT_FOUND,
    **_responses(
        s413="The body is over the limit.",
        s429="The queue is full; try again later.",
        s500="The model's answer is no number, or the server has a fault.",
        s503="The server is about to end, or the model has failed.",
        s504="It was not answered in time.",
    ),
}
REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {**_json(_INFER_REQUEST), "application/octet-stream": {"schema": {"type": "string"}}},
    }
}
INDEX_REQUEST: dict[str, Any] = {
    "requestBody": {"content": _json({"type": "object", "properties": {"ready": {"type": "boolean"}}})}
}
