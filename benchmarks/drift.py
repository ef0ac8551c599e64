"""How far the machine itself moved during a measurement: a fixed piece of work, timed again and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

#: A run whose machine drifted by more is marked in its table.
ALLOWED = 0.2
_VALUES = 1 << 14  # of the array: it stays in the core's own cache
_ROUNDS = 128  # of a repeat, about 5 ms
_REPEATS = 3
#: Seconds before the work: the threads of an engine spin for a while after their last run.
_REST = 0.03

Clock = Callable[[], float]


class Reference:
    """The reference loop: numpy's exponential of a fixed array, about 15 ms in all.

    It runs on one core. A matrix product would take all of them, and wait for the threads of an engine that still spin
    after their last run: it told of these, not of the machine.

    Args:
        work: what is timed instead.
        clock: gives seconds.
    """

    def __init__(self, work: Callable[[], object] | None = None, clock: Clock = time.perf_counter) -> None:
        self._values = np.random.default_rng(0).standard_normal(_VALUES, np.float32)
        self._room = np.empty_like(self._values)
        self._work = work or self._exponentials
        self._clock = clock
        self._work()  # warm

    def seconds(self) -> float:
        """The work's time now, after a rest: the best of three, so that a stall of milliseconds does not count as
        drift."""
        time.sleep(_REST)
        return min(self._once() for _ in range(_REPEATS))

    def _once(self) -> float:
        begin = self._clock()
        self._work()
        return self._clock() - begin

    def _exponentials(self) -> None:
        for _ in range(_ROUNDS):
            np.exp(self._values, out=self._room)


def drift(seconds: Sequence[float]) -> float:
    """By which share the reference's slowest time is above its fastest, each the median of itself and its neighbours.

    So one late note counts for nothing, and a machine that is slow for two notes and longer counts in full.
    """
    if len(seconds) < 3:
        smooth = list(seconds)
    else:
        smooth = [statistics.median(seconds[at : at + 3]) for at in range(len(seconds) - 2)]
    return max(smooth) / min(smooth) - 1
