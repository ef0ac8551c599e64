"""Text models: texts in, answers out.

``pack`` makes an executable of a folder that transformers or sentence-transformers saved; ``TextModel`` answers with
it.
The names below are imported when they are first used: a process that serves loads no onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poprt.text.facts import TASKS, TextFacts
    from poprt.text.folder.pack import PackedText, PackOptions, pack
    from poprt.text.model import TextModel
    from poprt.text.tokens import Tokens

__all__ = ["TASKS", "PackOptions", "PackedText", "TextFacts", "TextModel", "Tokens", "pack"]

_NAMES = {
    "TASKS": "poprt.text.facts",
    "PackOptions": "poprt.text.folder.pack",
    "PackedText": "poprt.text.folder.pack",
    "TextFacts": "poprt.text.facts",
    "TextModel": "poprt.text.model",
    "Tokens": "poprt.text.tokens",
    "pack": "poprt.text.folder.pack",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'poprt.text' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
