"""The machine's own stalls: a process that only sleeps for a millisecond, again and again, and notes how late it wakes.

It is a process and no thread, since a thread would wait for the interpreter's lock as well.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.drift import Clock
from benchmarks.processes import start

_NAP = 0.001


@dataclass(frozen=True)
class Stalls:
    """How late the sleeper woke, in seconds."""

    p99: float
    p999: float
    worst: float

    @staticmethod
    def of(lateness: Sequence[float]) -> Stalls:
        """The quantiles of all wake-ups."""
        p99, p999, worst = (float(value) for value in np.quantile(lateness, [0.99, 0.999, 1]))
        return Stalls(p99, p999, worst)


class StallWatch:
    """Watches while it is entered; then ``lateness`` has the seconds by which each wake-up was late."""

    def __init__(self) -> None:
        self.lateness: list[float] = []

    def __enter__(self) -> Self:
        self._pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        self._process = start(_watch, theirs)
        theirs.close()
        self._pipe.recv()  # it watches
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._pipe.send("enough")
            self.lateness = self._pipe.recv()
        self._pipe.close()
        self._process.kill()
        self._process.join()


def note_lateness(ended: Callable[[], bool], sleep: Callable[[float], None], clock: Clock) -> list[float]:
    """Sleep until ``ended``, once at least, and return how late each wake-up was, in seconds."""
    lateness: list[float] = []
    while not lateness or not ended():
        due = clock() + _NAP
        sleep(_NAP)
        lateness.append(max(0.0, clock() - due))
    return lateness


def _watch(pipe: Connection) -> None:
    pipe.send("watching")
    pipe.send(note_lateness(pipe.poll, time.sleep, time.perf_counter))
