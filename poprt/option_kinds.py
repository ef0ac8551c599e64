"""What values an option takes: how one is checked, and the one form that it is brought into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from passes.cleanup.graph_outputs import split_names
from passes.errors import RewriteError
from passes.numbers import LARGEST_EXTENT
from passes.packing.opening.pack_args import parse_pack_args

NO_FP8 = "FP8 needs hardware that this engine does not have"
_PRECISIONS, _FP8_WORDS = ("fp32", "fp16", "bf16", "int8"), ("fp8", "fp8_weight")


def _nothing() -> None:
    """None."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Kind:
    """The values that an option takes.

    Attributes:
        check: given the option's name and a value, raises RewriteError where it is not of this kind.
        normal: the form in which a checked value is used.
        empty: makes the value of an option that has no default and is not given.
    """

    check: Callable[[str, Any], None]
    normal: Callable[[Any], Any] = _same
    empty: Callable[[], Any] = _nothing

    def read(self, value: Any) -> Any:
        """The normal form of a checked value, or of None."""
        return self.empty() if value is None else self.normal(value)


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words, ``words``."""

    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole(Kind):
    """Whole numbers. ``least`` and ``most`` are the option's own bounds, None where it has none of its own."""

    least: int | None = None
    most: int | None = None


def whole(least: int | None = None, most: int | None = None, limit: int = LARGEST_EXTENT) -> Whole:
    """Whole numbers from ``least`` to ``most``; ``limit`` is the largest magnitude where there is no bound."""
    lowest, highest = -limit if least is None else least, limit if most is None else most

    def check(name: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise _wrong(name, value, f"a whole number of at least {lowest} and at most {highest}")

    return Whole(check, least=least, most=most)


def _wrong(name: str, value: Any, expected: str) -> RewriteError:
    return RewriteError(f"{name} must be {expected}, not {value!r}")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")


def _names(name: str, value: Any) -> None:
    if not isinstance(value, (str, list, tuple)) or not all(isinstance(part, str) for part in value):
        raise _wrong(name, value, "names, as a list or a comma-separated string")


def _path(name: str, value: Any) -> None:
    if not isinstance(value, (str, PathLike)):
        raise _wrong(name, value, "a path")


def _libraries(name: str, value: Any) -> None:
    listed = [value] if isinstance(value, (str, PathLike)) else value
    if not isinstance(listed, (list, tuple)) or not all(isinstance(part, (str, PathLike)) for part in listed):
        raise _wrong(name, value, "paths of libraries, or onnxruntime_extensions")


def _listed(libraries: Any) -> list[str]:
    return [fspath(part) for part in ([libraries] if isinstance(libraries, (str, PathLike)) else libraries)]


def _steps(name: str, value: Any) -> None:
    good = isinstance(value, (str, list, tuple)) and all(isinstance(part, str) or callable(part) for part in value)
    if not good:
        raise _wrong(name, value, "pass names or passes, as a list or a comma-separated string")


def _mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong(name, value, "a dict with string keys")


def _text_or_mapping(name: str, value: Any) -> None:
    if not isinstance(value, str):
        _mapping(name, value)


def _flag_or_text(name: str, value: Any) -> None:
    if not isinstance(value, (bool, str)):
        raise _wrong(name, value, "True, False or a string")


def _shapes(name: str, value: Any) -> None:
    _mapping(name, value)
    for tensor, shape in value.items():
        listed = isinstance(shape, Sequence) and not isinstance(shape, (str, bytes))
        if not listed or not all(_is_extent(extent) for extent in shape):
            raise _wrong(f"{name} of {tensor!r}", shape, f"a list of positive whole numbers up to {LARGEST_EXTENT}")


def _is_extent(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_EXTENT


def _precision(name: str, value: Any) -> None:
    word = value.lower() if isinstance(value, str) else value
    if word in _FP8_WORDS:
        raise RewriteError(f"{name} {value!r}: {NO_FP8}; int8 or bf16 is the thing to use")
    if word not in _PRECISIONS:
        raise _wrong(name, value, ", ".join(_PRECISIONS[:-1]) + f" or {_PRECISIONS[-1]}")


FLAG = Kind(_flag)
PATH = Kind(_path, fspath)
LIBRARIES = Kind(_libraries, _listed, list)
NAMES = Kind(_names, split_names, list)
STEPS = Kind(_steps, lambda steps: split_names(steps) if isinstance(steps, str) else list(steps), list)
SHAPES = Kind(_shapes, lambda shapes: {name: list(shape) for name, shape in shapes.items()}, dict)
PACK_ARGS = Kind(_mapping, lambda words: parse_pack_args(words) if words else None)
TEXT_OR_MAPPING = Kind(_text_or_mapping)
FLAG_OR_TEXT = Kind(_flag_or_text)
PRECISION = Choice(_precision, str.lower, words=_PRECISIONS)
