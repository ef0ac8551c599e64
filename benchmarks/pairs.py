"""Timing in pairs: our way and one other in turn (A B A B ...), the ratio pair by pair, with quartiles.

A slice takes a second or less, or one unit of work where that takes longer. A machine that slows down for half a minute
slows both sides of the pairs that it meets, and their ratio stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.drift import ALLOWED, Clock, Reference, drift

#: Pairs of a measurement by default.
PAIRS = 7
#: Seconds before each slice: the threads of an engine that has just run keep the cores busy for some 50 ms.
REST = 0.08
#: Pairs that are run even when time is up.
LEAST_PAIRS = 3

#: Runs slice number so and so, and returns its rate: work (runs, tokens, operations) a second.
Side = Callable[[int], float]


@dataclass(frozen=True)
class Quartiles:
    """The median of some values, and the quartiles below and above it."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Quartiles:
        """The quartiles of ``values``, between neighbours where they fall there."""
        low, median, high = (float(value) for value in np.quantile(list(values), [0.25, 0.5, 0.75]))
        return Quartiles(low, median, high)

    def inverse(self) -> Quartiles:
        """Those of 1 / value: from a ratio of rates to one of times, from a rate to a time."""
        return Quartiles(1 / self.high, 1 / self.median, 1 / self.low)


@dataclass(frozen=True)
class Paired:
    """Our way against one other.

    Attributes:
        ours, theirs: rates, work a second.
        ratio: our rate over theirs, pair by pair.
        pairs: that were run.
        drift: of the machine meanwhile: by which share its reference loop's slowest time is above its fastest.
    """

    ours: Quartiles
    theirs: Quartiles
    ratio: Quartiles
    pairs: int
    drift: float

    @property
    def drifted(self) -> bool:
        """Whether the machine moved too far for the rates to hold; the ratio may still."""
        return self.drift > ALLOWED


def run_pairs(
    ours: Side,
    theirs: Side,
    pairs: int = PAIRS,
    *,
    reference: Reference | None = None,
    deadline: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Paired:
    """Run both sides in turn, and note the machine's own speed before each slice and after the last.

    Args:
        ours, theirs: the sides; both are warm.
        pairs: to run.
        reference: notes the machine's speed; None makes one.
        deadline: by ``clock``; pairs beyond the third do not begin after it.
        clock: gives seconds.
    """
    reference = reference or Reference()
    rates: list[tuple[float, float]] = []
    notes: list[float] = []
    for turn in range(pairs):
        if turn >= LEAST_PAIRS and clock() > deadline:
            break
        time.sleep(REST)
        notes.append(reference.seconds())
        mine = ours(turn)
        time.sleep(REST)
        notes.append(reference.seconds())
        rates.append((mine, theirs(turn)))
    notes.append(reference.seconds())
    return Paired(
        Quartiles.of(mine for mine, _ in rates),
        Quartiles.of(other for _, other in rates),
        Quartiles.of(mine / other for mine, other in rates),
        len(rates),
        drift(notes),
    )


def repeated(run: Callable[[], object], seconds: float, clock: Clock = time.perf_counter) -> Side:
    """A side that repeats ``run`` for about ``seconds``, once at least; its rate is in runs a second."""

    def side(_turn: int) -> float:
        runs, begin = 0, clock()
        while not runs or clock() - begin < seconds:
            run()
            runs += 1
        return runs / (clock() - begin)

    return side
