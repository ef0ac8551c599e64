"""poprt: rewrite, pack, compile and serve transformer encoders in ONNX.

The names below are imported when they are first used, so that ``import poprt.runtime`` does not load onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poprt import (
        backend,
        backends,
        compiler,
        converter,
        errors,
        executable,
        frontend,
        optimizer,
        passes,
        profile,
        runtime,
        text,
        utils,
        verify,
    )
    from poprt.backend import Backend
    from poprt.compiler import Compiler, CompilerOptions
    from poprt.converter import Converter
    from poprt.executable import Executable
    from poprt.frontend import get_frontend
    from poprt.passes import Pass, PassManager, get_pass, get_registered_passes

    __version__: str

__all__ = [
    "Backend",
    "Compiler",
    "CompilerOptions",
    "Converter",
    "Executable",
    "Pass",
    "PassManager",
    "__version__",
    "backend",
    "backends",
    "compiler",
    "converter",
    "errors",
    "executable",
    "frontend",
    "get_frontend",
    "get_pass",
    "get_registered_passes",
    "optimizer",
    "passes",
    "profile",
    "runtime",
    "text",
    "utils",
    "verify",
]

_NAMES = {
    "Backend": "poprt.backend",
    "Compiler": "poprt.compiler",
    "CompilerOptions": "poprt.compiler",
    "Converter": "poprt.converter",
    "Executable": "poprt.executable",
    "Pass": "poprt.passes",
    "PassManager": "poprt.passes",
    "get_frontend": "poprt.frontend",
    "get_pass": "poprt.passes",
    "get_registered_passes": "poprt.passes",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("poprt.version").VERSION
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"poprt.{name}")
    raise AttributeError(f"module 'poprt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
