"""Options that several commands share, and the kinds of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from benchmarks.pairs import PAIRS

T = TypeVar("T", int, float)


def add_pairs(parser: argparse.ArgumentParser, seconds: float) -> None:
    """Add --seconds and --pairs."""
    parser.add_argument("--seconds", type=duration, default=seconds, help="of a slice, about; one run at least")
    parser.add_argument("--pairs", type=count, default=PAIRS, help="pairs of slices; medians and quartiles count")


def count(text: str) -> int:
    """A whole number of 1 or more."""
    return _checked(text, int, "a whole number of 1 or more", lambda value: value >= 1)


def duration(text: str) -> float:
    """Seconds or minutes, 0 or more."""
    return _checked(text, float, "a number of 0 or more", lambda value: 0 <= value < float("inf"))


def share(text: str) -> float:
    """A number from 0 to 1."""
    return _checked(text, float, "a share from 0 to 1, such as 0.1", lambda value: 0 <= value <= 1)


def budget(text: str) -> int | None:
    """A token budget; "own" is None."""
    return None if text == "own" else _checked(text, int, 'a whole number of 1 or more, or "own"', lambda v: v >= 1)


def _checked(text: str, kind: Callable[[str], T], expected: str, suits: Callable[[T], bool]) -> T:
    try:
        value = kind(text)
        if suits(value):
            return value
    except ValueError:
        pass  # said below, as for a number out of range
    raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
