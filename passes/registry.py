"""How a pass is found by its name."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, overload

import onnx_graphsurgeon as gs

from passes.announced import ANNOUNCED
from passes.base import GraphPass, Pass, PassClass, PassResult
from passes.builtin import BUILT_IN
from passes.errors import RewriteError, UnknownPassError

_PASSES: dict[str, type] = {}

logger = logging.getLogger("poprt")


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


class PassNames(list[str]):
    """Pass names, which also give their classes: for programs that take them for a dict of names and classes."""

    @overload  # type: ignore[override]  # a name as well
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    @overload
    def __getitem__(self, key: str) -> type: ...

    def __getitem__(self, key: int | slice | str) -> str | list[str] | type:
        """A name by its place, or the class by its name; KeyError where there is none."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self:
            raise KeyError(key)
        return _pass_class(key)

    def keys(self) -> list[str]:
        """The names."""
        return list(self)

    def values(self) -> list[type]:
        """The classes, which are imported for it."""
        return [_pass_class(name) for name in self]

    def items(self) -> list[tuple[str, type]]:
        """Names and classes."""
        return list(zip(self, self.values(), strict=True))

    def get(self, name: str, default: Any = None) -> Any:
        """The class by its name, or ``default``."""
        return _pass_class(name) if name in self else default


def get_registered_passes() -> PassNames:
    """The known pass names, sorted. No pass is imported for it, until its class is asked for."""
    return PassNames(sorted({*BUILT_IN, *_PASSES}))


def _pass_class(name: str) -> type:
    if name not in _PASSES:
        importlib.import_module(BUILT_IN[name])
    return _PASSES[name]


def announced_passes() -> list[str]:
    """The names that are accepted and have no effect here, sorted; one that a script registered is none of them."""
    return sorted(set(ANNOUNCED) - set(get_registered_passes()))


def announce(names: Iterable[str]) -> None:
    """Say once of each of ``names`` that has no effect here why nothing is lost."""
    without_effect = announced_passes()
    for name in dict.fromkeys(names):
        if name in without_effect:
            logger.warning("pass %s has no effect here: %s", name, ANNOUNCED[name])


class _Announced(GraphPass):
    """A pass that has no effect here; whoever asked for it was told."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def apply(self, graph: gs.Graph) -> PassResult:
        """Leave ``graph`` alone."""
        return PassResult()


def check_names(names: Iterable[str]) -> None:
    """Refuse a name that is neither registered nor announced.

    Raises:
        UnknownPassError: the message offers the nearest names.
    """
    names_here = {*get_registered_passes(), *announced_passes()}
    for name in names:
        if name not in names_here:
            raise UnknownPassError(f"unknown pass {name!r}{_offer(name)}; `poprt --list_all_passes` prints all names")


def get_pass(name: str, *args: Any, **options: Any) -> Pass:
    """Make the pass ``name``. One that has no effect here is announced, whatever its options are.

    Raises:
        UnknownPassError: the name is not registered.
        RewriteError: the pass does not take these options.
    """
    check_names([name])
    if name in announced_passes():
        announce([name])
        return _Announced(name)
    try:
        instance: Pass = _pass_class(name)(*args, **options)
    except TypeError as error:
        raise RewriteError(f"pass {name!r} does not take these options: {error}") from error
    return instance


def _offer(name: str) -> str:
    near = difflib.get_close_matches(name, [*get_registered_passes(), *announced_passes()], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else ""


#: The methods of ``Pass`` are the same; ``passes.base`` stands below this module and cannot name it.
Pass.get_pass = staticmethod(get_pass)  # type: ignore[method-assign]
Pass.register_pass = staticmethod(register)  # type: ignore[method-assign]
Pass.get_registered_passes = staticmethod(get_registered_passes)  # type: ignore[method-assign]
