"""Errors as text-embeddings-inference writes them."""

from __future__ import annotations

from typing import Any

from poprt.serve.errors import (
    DeadlineExceeded,
    EmptyBatch,
    Internal,
    QueueFull,
    ServeError,
    Unauthorized,
    Unavailable,
    WrongTask,
)
from poprt.serve.routing import object_of

#: Errors whose status is another one here.
_STATUSES: dict[type[ServeError], int] = {Internal: 424, WrongTask: 424}
_TYPES: dict[type[ServeError], str] = {
    DeadlineExceeded: "Overloaded",
    EmptyBatch: "Empty",
    Internal: "Backend",
    QueueFull: "Overloaded",
    Unauthorized: "Unauthorized",
    Unavailable: "Unhealthy",
    WrongTask: "Backend",
}

#: The schema of :func:`tei_form`.
ERROR = object_of({"error": {"type": "string"}, "error_type": {"type": "string"}})


def tei_form(error: ServeError) -> tuple[int, Any]:
    """Status and body. ``error_type`` says whether the request, the model or the load is at fault."""
    status = _STATUSES.get(type(error), error.status)
    return status, {"error": error.message, "error_type": _TYPES.get(type(error), "Validation")}
