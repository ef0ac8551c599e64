"""An exception of a user's own code on one line, with its place."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path


def describe(error: BaseException, is_users: Callable[[str], bool] = lambda _: True) -> str:
    """``error`` with its place: "mine.py, line 6: ZeroDivisionError: a bug".

    Args:
        error: what was raised.
        is_users: whether a file is one of the user's; the place is the innermost one in such a file.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if is_users(frame.filename)] or list(frames)
    return f"{users[-1].filename}, line {users[-1].lineno}: {what}" if users else what


def is_same_file(path: Path) -> Callable[[str], bool]:
    """Whether a file of a traceback is ``path``."""
    resolved = path.resolve()
    return lambda name: Path(name).resolve() == resolved
