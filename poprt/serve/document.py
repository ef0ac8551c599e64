"""The OpenAPI document, with what no single route knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from poprt.serve.limits import OPEN_PATHS
from poprt.serve.routing import DESCRIPTIONS

#: Parameters that are the name of a model.
_NAMES = ("model", "X-Model", "name")


def completed(document: dict[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """The document with the errors that come from around the routes, and with the models' names.

    Args:
        document: as FastAPI writes it; it is changed.
        models: the names.
    """
    for path, method, operation in _operations(document):
        _complete_errors(operation["responses"], path, method)
        for parameter in operation.get("parameters", ()):
            if parameter["name"] in _NAMES:
                parameter["schema"] = {"type": "string", "enum": list(models)}
        if path == "/v1/embeddings":
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            body["properties"]["model"] = {"enum": [*models, None], "description": "The model; null is the first."}
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _complete_errors(responses: dict[str, Any], path: str, method: str) -> None:
    """Add what keys and bodies may lead to; leave out FastAPI's own error, which is never sent."""
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    around = ((401,) if path not in OPEN_PATHS else ()) + ((413, 415) if method == "post" else ())
    for status in around:
        responses.setdefault(str(status), {"description": DESCRIPTIONS[status]})
