"""Which model has which name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from poprt.errors import PoprtError
from poprt.executable import TEXT, Executable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")


def named_models(words: Iterable[str]) -> dict[str, str]:
    """Name -> path of each executable.

    Args:
        words: ``NAME=PATH`` each, or a path alone: then the model has the name that its file says, or the file's own.

    Raises:
        PoprtError: there is none, a name is none or taken, or there is no such file.
        ExecutableError: a file without a name is no executable.
    """
    models: dict[str, str] = {}
    for word in words:
        name, path = _parted(word)
        if not path:
            raise PoprtError(f"model {word!r}: expected NAME=FILE or FILE")
        if not Path(path).is_file():
            raise PoprtError(f"model {name or path!r}: there is no file {path!r}")
        name = name or _own_name(path)
        if name in models:
            raise PoprtError(f"two models have the name {name!r}: {models[name]!r} and {path!r}; say NAME=FILE")
        models[name] = path
    if not models:
        raise PoprtError("no model to serve: say NAME=FILE.popef")
    return models


def _parted(word: str) -> tuple[str, str]:
    """The name, "" where there is none, and the path."""
    name, equals, path = word.partition("=")
    if not equals or word.startswith((".", "/", "~")) or Path(word).is_file():
        return "", word
    if not _NAME.fullmatch(name):
        raise PoprtError(f"model {word!r}: {name!r} is no name; it has letters, digits and any of . _ : / @ + -")
    return name, path


def _own_name(path: str) -> str:
    text = Executable(path, check_hash=False).texts.get(TEXT)
    name = json.loads(text).get("name", "") if text else ""
    return name if isinstance(name, str) and _NAME.fullmatch(name) else Path(path).stem
