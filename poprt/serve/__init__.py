"""Executables behind HTTP and gRPC: ``create_app`` makes a FastAPI application, ``poprt serve`` runs one.

The names below are imported when they are first used: the options need no web framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poprt.serve.app import create_app
    from poprt.serve.models import Models, ServedModel
    from poprt.serve.options import ServeOptions

__all__ = ["Models", "ServeOptions", "ServedModel", "create_app"]

_NAMES = {
    "Models": "poprt.serve.models",
    "ServeOptions": "poprt.serve.options",
    "ServedModel": "poprt.serve.models",
    "create_app": "poprt.serve.app",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'poprt.serve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
