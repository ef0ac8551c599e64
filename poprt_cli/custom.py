"""Import the user's Python files that register passes."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from passes.check.blame import describe, is_same_file
from poprt.errors import PoprtError

logger = logging.getLogger("poprt")


def import_files(option: str, paths: Iterable[str]) -> None:
    """Import each file under a name of its own.

    Raises:
        PoprtError: a path is no Python file, or the file raises; the message names ``option``, the file and the line.
            Its traceback is logged at DEBUG.
    """
    for path in map(Path, paths):
        if path.suffix != ".py" or not path.is_file():
            raise PoprtError(f"{option}: {str(path)!r} is no existing .py file")
        name = f"poprt_custom_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PoprtError(f"{option}: {str(path)!r} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            logger.debug("%s cannot be imported", path, exc_info=error)
            raise PoprtError(f"{option}: {describe(error, is_same_file(path))}") from error
