"""Timing of several ways to run the same samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.contenders import Contender, Result, Sample


def measure(
    contenders: Sequence[Contender],
    samples: Sequence[Sample],
    rounds: int,
    report: Callable[[str], None],
    budget: float = 90.0,
) -> tuple[dict[str, float], dict[str, list[Result]]]:
    """Time the contenders in turn, so that a disturbance of the machine meets them all.

    Args:
        contenders: the ways to time.
        samples: what each of them runs.
        rounds: how often each is run.
        report: takes a line of progress after each run.
        budget: seconds after which no new round is begun; the first is always run to its end.

    Returns:
        The median seconds for all samples, and the results, by contender.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    results: dict[str, list[Result]] = {}
    begin = time.perf_counter()
    for turn in range(rounds):
        if turn and time.perf_counter() - begin > budget:
            report(f"stopped after {turn} of {rounds} rounds: the machine is slow or busy")
            break
        for contender in contenders:
            start = time.perf_counter()
            results[contender.name] = contender.run(samples)
            seconds[contender.name].append(time.perf_counter() - start)
            report(f"round {turn + 1} of {rounds}: {contender.name}, {seconds[contender.name][-1]:.1f} s")
    return {name: statistics.median(taken) for name, taken in seconds.items()}, results
