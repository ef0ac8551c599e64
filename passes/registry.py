"""How a pass is found by its name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from passes.base import Pass
from passes.builtin import BUILT_IN
from passes.errors import RewriteError, UnknownPassError

PassClass = TypeVar("PassClass", bound=type)

_PASSES: dict[str, type] = {}


def register(name: str) -> Callable[[PassClass], PassClass]:
    """Class decorator: make the class known as ``name``.

    Raises:
        RewriteError: when another class already has that name.
    """

    def decorate(cls: PassClass) -> PassClass:
        earlier = _PASSES.get(name)
        taken_by = f"{earlier.__module__}.{earlier.__qualname__}" if earlier is not None else BUILT_IN.get(name, "")
        own = cls.__module__ == BUILT_IN.get(name) or (earlier is not None and earlier.__qualname__ == cls.__qualname__)
        if taken_by and not own:
            raise RewriteError(f"pass name {name!r} is taken by {taken_by}; choose another")
        cls.name = name  # type: ignore[attr-defined]  # a script may register a class of its own making
        _PASSES[name] = cls
        return cls

    return decorate


def get_registered_passes() -> list[str]:
    """The known pass names, sorted. No pass is imported for it."""
    return sorted({*BUILT_IN, *_PASSES})


def get_pass(name: str, *args: Any, **options: Any) -> Pass:
    """Make the pass ``name``.

    Raises:
        UnknownPassError: the name is not registered.
        RewriteError: the pass does not take these options.
    """
    if name not in get_registered_passes():
        raise UnknownPassError(f"unknown pass {name!r}{_offer(name)}; `poprt --list_all_passes` prints all names")
    if name not in _PASSES:
        importlib.import_module(BUILT_IN[name])
    try:
        instance: Pass = _PASSES[name](*args, **options)
    except TypeError as error:
        raise RewriteError(f"pass {name!r} does not take these options: {error}") from error
    return instance


def _offer(name: str) -> str:
    near = difflib.get_close_matches(name, get_registered_passes(), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else ""


#: ``Pass.get_pass`` is the same look-up; ``passes.base`` stands below this module and cannot name it.
Pass.get_pass = staticmethod(get_pass)  # type: ignore[method-assign]
