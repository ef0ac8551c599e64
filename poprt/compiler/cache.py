"""Reuse an executable that was compiled before from the same model, options and versions."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from passes.folders import make_folder
from poprt.compiler.options import CompilerOptions
from poprt.compiler.source import Source
from poprt.compiler.versions import versions
from poprt.engine.custom_ops import library_names
from poprt.engine.providers import default_providers
from poprt.errors import CompileError, ExecutableError
from poprt.executable import FORMAT_VERSION, Executable

logger = logging.getLogger("poprt")


def cached(source: Source, outputs: list[str], options: CompilerOptions, build: Callable[[], Executable]) -> Executable:
    """What ``build`` makes, taken from ``options.cache_path`` where it was made before and caching is enabled.

    Raises:
        CompileError: caching is enabled, and ``cache_path`` is empty or is no folder that can be written to.
    """
    if not options.enable_engine_caching:
        return build()
    if not options.cache_path:
        raise CompileError("compiler option 'enable_engine_caching' needs a folder in 'cache_path'")
    path = Path(options.cache_path) / f"{_key(source, outputs, options)}.popef"
    if path.exists():
        try:
            kept = Executable(path)
            logger.info("reusing the executable %s", path)
            return kept
        except (ExecutableError, OSError) as error:
            logger.warning("the cached executable is not usable and is made again: %s", error)
    _prepare(path.parent)
    built = build()
    try:
        built.save(path)
    except OSError as error:  # a full disk is no reason to lose what took long to make
        logger.warning("the executable cannot be kept in 'cache_path' as %s: %s", path, error.strerror or error)
    return built


def _prepare(folder: Path) -> None:
    try:
        make_folder(folder)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CompileError(
            f"compiler option 'cache_path': {str(folder)!r} cannot be written to ({why}); "
            "give a folder that can, or leave out 'enable_engine_caching'"
        ) from error


def _key(source: Source, outputs: list[str], options: CompilerOptions) -> str:
    digest = hashlib.sha256(source.model.SerializeToString(deterministic=True))
    for name, array in source.weights.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    context = [outputs, options.to_note(), versions(), FORMAT_VERSION, default_providers(), sorted(source.variable)]
    context.append(library_names())
    digest.update(json.dumps(context, sort_keys=True).encode())
    return digest.hexdigest()
