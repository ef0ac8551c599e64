"""Throughput of every contender, as a ratio to the best baseline and as a share of the machine's roof."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.field import Case, Entry, Field, FieldBuilder
from benchmarks.roof import Roof
from benchmarks.rounds import MULTIPLE, Report, Timing, interleave, requests_per_second, whole_batches
from benchmarks.workloads import Requests, config_of, useful_flops


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes:
        seconds: of a slice, about.
        rounds: slices of each contender.
        least: requests of a slice at least; with fewer there would be little to sort.
        minutes: for all cases together. Where they are short, rounds are left out, all but the first; then slices
            shrink, to a batch of the fixed shape.
    """

    seconds: float = 4.0
    rounds: int = 3
    least: int = 32
    minutes: float = 18.0


@dataclass(frozen=True)
class Row:
    """One contender's result.

    Attributes:
        kind: "baseline", "peer" or "poprt".
        offline: it needs all requests before it starts.
        samples_per_second: tokens per second over the mean length of all requests that were run in the case, so that
            contenders whose slices held other requests compare.
        ratio: throughput over that of the best baseline.
        roof_share: floating-point operations that the requests need, without padding, over time and over the roof.
        padding: share of padding in the tokens fed.
        overhead: share of the time outside the engine's run call; None where nobody counts it.
        spread: (fastest - slowest) / median over the slices.
        requests: in a slice.
        difference: of the numbers from the reference.
    """

    name: str
    kind: str
    offline: bool
    tokens_per_second: float
    samples_per_second: float
    ratio: float
    roof_share: float
    padding: float
    overhead: float | None
    spread: float
    requests: int
    difference: float


@dataclass(frozen=True)
class CaseResult:
    """One table.

    Attributes:
        roof: floating-point operations a second of the model's products alone, by library, medians over the rounds.
        mean_length: tokens of a request on average.
        absent: why a contender was not run, by name.
        seconds: that the case took, with building, checking and tuning.
    """

    case: Case
    roof: dict[str, float]
    mean_length: float
    rows: list[Row]
    absent: dict[str, str]
    seconds: float


def measure_case(case: Case, budget: Budget, report: Report) -> CaseResult:
    """Build the field of a case, check it, and time it in turns with the roof. ``budget.minutes`` is for this case."""
    begin = time.perf_counter()
    deadline = begin + 60 * budget.minutes
    config = config_of(case.size)
    requests = Requests(case.lengths, config.vocab)
    field = FieldBuilder(case, requests, report).build()
    contenders = [entry.contender for entry in field.entries]
    speeds = {c.name: requests_per_second(c, requests, budget.seconds / 4) for c in contenders}
    counts = slice_counts(speeds, budget, deadline - time.perf_counter())
    roof = Roof(config, case.precision)
    roof.measure(0)  # warm
    measured: list[dict[str, float]] = []

    def measure_roof() -> None:
        measured.append(roof.measure(budget.seconds / 4))

    timings = interleave(contenders, requests, counts, budget.rounds, report, between=measure_roof, deadline=deadline)
    rates = {name: statistics.median(turn[name] for turn in measured) for name in measured[0]}
    lengths = [n for timing in timings.values() for item in timing.slices for n in item.lengths]
    mean = float(np.mean(lengths))
    rows = make_rows(case, field, timings, max(rates.values()), mean)
    return CaseResult(case, rates, mean, rows, field.absent, time.perf_counter() - begin)


def slice_counts(speeds: Mapping[str, float], budget: Budget, seconds: float) -> dict[str, int]:
    """How many requests each contender gets in a slice, if all slices are to take ``seconds`` together.

    Args:
        speeds: requests a second by contender.
        budget: what is wanted.
        seconds: what there is, for as many rounds as it is enough for.
    """
    affordable = seconds // (budget.seconds * len(speeds))
    each = seconds / max(1, min(budget.rounds, affordable)) / len(speeds)
    counts = {}
    for name, speed in speeds.items():
        count = max(budget.least, whole_batches(budget.seconds * speed))
        counts[name] = min(count, max(MULTIPLE, int(each * speed / MULTIPLE) * MULTIPLE))
    return counts


def make_rows(case: Case, field: Field, timings: dict[str, Timing], roof: float, mean: float) -> list[Row]:
    """Every contender's figures, in the order of the field."""
    rates = {entry.contender.name: timings[entry.contender.name].tokens_per_second for entry in field.entries}
    best = max(rates[entry.contender.name] for entry in field.entries if entry.kind == "baseline")
    return [_row(case, entry, timings[entry.contender.name], best, roof, mean) for entry in field.entries]


def _row(case: Case, entry: Entry, timing: Timing, best: float, roof: float, mean: float) -> Row:
    config, rate = config_of(case.size), timing.tokens_per_second
    return Row(
        name=entry.contender.name,
        kind=entry.kind,
        offline=entry.offline,
        tokens_per_second=rate,
        samples_per_second=rate / mean,
        ratio=rate / best,
        roof_share=statistics.median(useful_flops(config, s.lengths) / s.seconds / roof for s in timing.slices),
        padding=timing.padding,
        overhead=timing.overhead,
        spread=timing.spread,
        requests=len(timing.slices[0].lengths),
        difference=entry.difference,
    )


def measure_all(cases: Sequence[Case], budget: Budget, report: Report) -> Iterator[CaseResult]:
    """Measure the cases one after the other, each in a process of its own: engines keep the memory that they had."""
    deadline = time.perf_counter() + 60 * budget.minutes
    for done, case in enumerate(cases):
        share = (deadline - time.perf_counter()) / (len(cases) - done)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            result = process.submit(_measure_alone, case, replace(budget, minutes=share / 60)).result()
        report(f"{case}: done in {result.seconds:.0f} s")
        yield result


def _measure_alone(case: Case, budget: Budget) -> CaseResult:
    start = time.perf_counter()

    def report(line: str) -> None:
        print(f"{time.perf_counter() - start:8.1f} s  {case}: {line}", flush=True)

    return measure_case(case, budget, report)
