"""Libraries of operators that onnxruntime does not have, registered with the sessions that need them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path

import onnxruntime as ort

from poprt.errors import PoprtError

#: A library: its path, or the name of a package that brings one.
Library = str | os.PathLike[str]

#: The package of operators for tokenizers, images and audio; the domains of its operators; how its library is called.
EXTENSIONS = "onnxruntime_extensions"
EXTENSION_DOMAINS = frozenset({"ai.onnx.contrib", "com.microsoft.extensions"})
_EXTENSIONS_LIBRARY = "_extensions_pydll*"

_in_force: ContextVar[tuple[str, ...]] = ContextVar("custom_ops", default=())


@contextmanager
def custom_ops(libraries: Iterable[Library]) -> Iterator[tuple[str, ...]]:
    """Register ``libraries`` with every session that this thread opens meanwhile, besides those in force already.

    Args:
        libraries: paths of shared libraries, or "onnxruntime_extensions" for the one of that package.

    Yields:
        The paths of all that are in force.

    Raises:
        PoprtError: there is no such library, or it is none of custom operators.
    """
    paths = [_path(library) for library in libraries]
    for path in paths:
        _try(path)
    token = _in_force.set(tuple(dict.fromkeys([*_in_force.get(), *paths])))
    try:
        yield _in_force.get()
    finally:
        _in_force.reset(token)


def registered_libraries() -> tuple[str, ...]:
    """The paths of the libraries in force."""
    return _in_force.get()


def library_names() -> tuple[str, ...]:
    """How the libraries in force are called without their folders, as an executable notes them."""
    return tuple(EXTENSIONS if EXTENSIONS in Path(path).parts else Path(path).name for path in _in_force.get())


def how_to_register(operators: Iterable[str]) -> str:
    """One sentence on the library that ``operators`` ("domain.Name") need."""
    if any(operator.rpartition(".")[0] in EXTENSION_DOMAINS for operator in operators):
        return (
            "the engine needs the library of onnxruntime-extensions: pip install onnxruntime-extensions, then "
            f"--custom_ops {EXTENSIONS} (custom_ops=['{EXTENSIONS}'] in Python)"
        )
    return (
        "the engine needs the library that brings it: --custom_ops LIBRARY (custom_ops=['LIBRARY'] in Python) "
        "registers one"
    )


def _path(library: Library) -> str:
    name = os.fspath(library)
    if name.replace("-", "_") == EXTENSIONS:
        return _extensions()
    if not os.path.isfile(name):
        raise PoprtError(
            f"custom_ops: there is no file {name!r}; give the path of a shared library, or {EXTENSIONS} for the "
            "library of that package"
        )
    return str(Path(name).resolve())


def _extensions() -> str:
    """The library of the package, which is not imported: that takes seconds."""
    package = find_spec(EXTENSIONS)
    folders = package.submodule_search_locations or [] if package is not None else []
    files = sorted(path for folder in folders for path in Path(folder).glob(_EXTENSIONS_LIBRARY))
    if not files:
        raise PoprtError(
            "custom_ops: the package onnxruntime-extensions is not installed: pip install onnxruntime-extensions, or "
            "give the path of its library"
        )
    return str(files[0])


def _try(path: str) -> None:
    try:
        ort.SessionOptions().register_custom_ops_library(path)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise PoprtError(f"custom_ops: {path!r} is no library of custom operators for onnxruntime: {error}") from error
