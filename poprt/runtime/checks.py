"""What the options of runners may be: one clear message for each that is of a wrong type or out of range."""

from __future__ import annotations

import datetime
import operator
import os
import threading
from collections.abc import Sequence

import numpy as np

from poprt.errors import PoprtError

#: Seconds: half of what a lock can wait, so that adding to it does no harm. 146 years on Linux.
LONGEST_WAIT = threading.TIMEOUT_MAX / 2


def check_int(name: str, value: object, least: int) -> int:
    """Return a whole number of at least ``least``; True and False are none."""
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise PoprtError(f"{name}: expected a whole number, got {value!r}")
    if number < least:
        raise PoprtError(f"{name}: expected >= {least}, got {value!r}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return True or False; 1 and 0 will do."""
    if isinstance(value, (bool, np.bool_, int)) and value in (0, 1):
        return bool(value)
    raise PoprtError(f"{name}: expected True or False, got {value!r}")


def check_text(name: str, value: object) -> str:
    """Return a name."""
    if not isinstance(value, str):
        raise PoprtError(f"{name}: expected a string, got {value!r}")
    return value


def check_callable(name: str, value: object) -> None:
    """Refuse what is no function."""
    if not callable(value):
        raise PoprtError(f"{name}: expected a function, got {value!r}")


def check_libraries(name: str, value: object) -> None:
    """Refuse what is no list of paths."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        listed = all(isinstance(part, (str, os.PathLike)) for part in value)
    else:
        listed = False
    if not listed:
        raise PoprtError(f"{name}: expected a list of paths of libraries, got {value!r}")


def check_lengths(name: str, value: object) -> None:
    """Refuse what is no list of numbers of tokens."""
    if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)):
        raise PoprtError(f"{name}: expected a list of whole numbers, got {value!r}")
    for length in value:
        check_int(name, length, 1)


def check_seconds(name: str, value: object, unit: float, what: str) -> float:
    """Return a duration in seconds, ``LONGEST_WAIT`` where it is longer.

    Args:
        value: a number of units, or a ``timedelta``.
        unit: how many seconds a unit has.
        what: what was expected, for the message.
    """
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        seconds = float(min(value, LONGEST_WAIT / unit)) * unit
    else:
        raise PoprtError(f"{name}: expected {what}, got {value!r}")
    if seconds < 0:
        least = "a duration >= 0" if isinstance(value, datetime.timedelta) else ">= 0"
        raise PoprtError(f"{name}: expected {least}, got {value!r}")
    if seconds != seconds:
        raise PoprtError(f"{name}: expected {what}, got {value!r}")
    return min(seconds, LONGEST_WAIT)


def check_session_options(
    session: object = None,
    threads: object = None,
    providers: object = None,
    spin_between_runs: object = True,
    **others: object,
) -> None:
    """Check the options of a runner that are no part of its configuration; raise PoprtError."""
    if others:
        name = next(iter(others))
        raise PoprtError(f"unknown option {name!r}: a runner takes session, threads, providers and spin_between_runs")
    if not isinstance(spin_between_runs, bool):
        raise PoprtError(f"spin_between_runs: expected True or False, got {spin_between_runs!r}")
    if session is not None and (threads is not None or providers is not None or not spin_between_runs):
        raise PoprtError(
            "threads, providers and spin_between_runs are of a session that is opened: leave them out where session is "
            "given"
        )
    if threads is not None:
        check_int("threads", threads, 1)
    listed = isinstance(providers, Sequence) and not isinstance(providers, str)
    if providers is not None and not (listed and providers):
        raise PoprtError(f"providers: expected a list of names such as ['CPUExecutionProvider'], got {providers!r}")
