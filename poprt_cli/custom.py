"""Import the user's Python files that register passes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from poprt.errors import PoprtError


def import_files(option: str, paths: Iterable[str]) -> None:
    """Import each file under a name of its own. An error inside a file is the file's, and keeps its traceback.

    Raises:
        PoprtError: a path is no Python file; the message names ``option``.
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
        spec.loader.exec_module(module)
