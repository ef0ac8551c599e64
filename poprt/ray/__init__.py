"""Text models on Ray: ``embed`` and ``TextEncoder`` for Ray Data, ``deployment`` for Ray Serve.

The names below are imported when they are first used: an actor for Ray Data needs no web framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poprt.ray.data import embed
    from poprt.ray.encoder import TextEncoder
    from poprt.ray.serving import deployment

__all__ = ["TextEncoder", "deployment", "embed"]

_NAMES = {
    "TextEncoder": "poprt.ray.encoder",
    "deployment": "poprt.ray.serving",
    "embed": "poprt.ray.data",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'poprt.ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
