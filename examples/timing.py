"""Timing of several ways to run the same samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from rich.table import Table

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


def comparison(
    contenders: Sequence[Contender],
    seconds: dict[str, float],
    lengths: Sequence[int],
    samples: str = "texts",
    tokens: str = "tokens",
) -> Table:
    """Padding and throughput of each way, and how much faster the last one is; ``samples`` and ``tokens`` name them."""
    needed, ours = sum(lengths), seconds[contenders[-1].name]
    table = Table(title=f"{len(lengths)} {samples}, {needed} {tokens}, median throughput", title_justify="left")
    table.add_column("way")
    for title in ("padding", f"{samples}/s", "packed is"):
        table.add_column(title, justify="right")
    for contender in contenders:
        taken = seconds[contender.name]
        rate = len(lengths) / taken
        table.add_row(
            contender.name,
            f"{1 - needed / contender.fed(lengths):.0%}",
            f"{rate:.{0 if rate > 10 else 1}f}",
            f"{taken / ours:.2f} x as fast" if contender is not contenders[-1] else "",
            style="bold green" if contender is contenders[-1] else "",
        )
    return table
