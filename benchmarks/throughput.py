"""Throughput of the pack runner against every contender, in pairs, and as a share of the machine's roof."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.contenders import sample_length
from benchmarks.field import Case, Entry, Field
from benchmarks.pairs import PAIRS, Paired, Side, run_pairs
from benchmarks.peak import Peak
from benchmarks.processes import run_alone
from benchmarks.roof import PEAK, Roof, higher, try_peak
from benchmarks.rounds import Report, Sliced, Timing, slice_count
from benchmarks.workloads import Requests, config_of, useful_flops

MEAN_OF = 2048  # requests whose mean length stands for all
_CONTENDERS = 11  # of a case at most, the roof among them; for sharing its minutes out


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes:
        seconds: of a slice, about; a slice is a batch of the fixed shape at least.
        pairs: of slices for each contender.
        minutes: for all cases together. Where they are short, pairs are left out, all but three.
    """

    seconds: float = 0.5
    pairs: int = PAIRS
    minutes: float = 20.0


@dataclass(frozen=True)
class Row:
    """One contender's result.

    Attributes:
        kind: "baseline", "peer" or "poprt".
        offline: it needs all requests before it starts.
        tokens_per_second: of requests, without padding; the median over the slices.
        samples_per_second: tokens per second over the mean length of the case's requests.
        paired: the pack runner against it, rates in tokens a second; None for the pack runner itself.
        roof_share: floating-point operations that the requests need, without padding, over time and over the roof.
        peak_share: the same over the arithmetic peak of the cores; None where there is none.
        padding: share of padding in the tokens fed.
        overhead: share of the time outside the engine's run call; None where nobody counts it.
        requests: in a slice.
        difference: of the numbers from the reference.
    """

    name: str
    kind: str
    offline: bool
    tokens_per_second: float
    samples_per_second: float
    paired: Paired | None
    roof_share: float
    peak_share: float | None
    padding: float
    overhead: float | None
    requests: int
    difference: float


@dataclass(frozen=True)
class CaseResult:
    """One table.

    Attributes:
        best: the engine and the form whose products are fastest here: the roof.
        roof: the pack runner against it, rates in floating-point operations a second that the requests need without
            padding, or that the products have.
        peak: the arithmetic peak of the cores; None where there is none.
        mean_length: tokens of a request on average.
        absent: why a contender was not run, by name.
        seconds: that the case took, with building, checking and tuning.
    """

    case: Case
    best: str
    roof: Paired
    peak: Peak | None
    mean_length: float
    rows: list[Row]
    absent: dict[str, str]
    seconds: float


def measure_case(case: Case, budget: Budget, report: Report) -> CaseResult:
    """Time the pack runner against the roof, then against one contender after the other."""
    begin = time.perf_counter()
    requests = Requests(case.lengths, config_of(case.size).vocab)
    field = Field(case, requests, report)
    before, reason = try_peak(case.precision, budget.seconds / 2)
    duel = _Duel(case, budget, requests, field.ours(), begin + 60 * budget.minutes)
    best, roof = duel.against_roof()
    duel.peak = higher(before, try_peak(case.precision, budget.seconds / 2)[0])
    rows = []
    for entry in field.others():
        rows.append(duel.against(entry, roof))
        report(report_line(rows[-1]))
        del entry  # and its engine, before the next one is opened
    rows.append(duel.own_row(roof))
    absent = field.absent | ({PEAK: reason} if duel.peak is None else {})
    return CaseResult(case, best, roof, duel.peak, duel.mean, rows, absent, time.perf_counter() - begin)


def report_line(row: Row) -> str:
    """A line of progress for a contender that is done."""
    assert row.paired is not None
    return f"{row.paired.ratio.median:.2f} x {row.name}, {row.paired.pairs} pairs"


class _Duel:
    """The pack runner, kept warm, against one after the other."""

    def __init__(self, case: Case, budget: Budget, requests: Requests, ours: Entry, deadline: float) -> None:
        #: That the shares of rows are of; None where there is none.
        self.peak: Peak | None = None
        self._config = config_of(case.size)
        self._precision = case.precision
        self._budget, self._deadline = budget, deadline
        self._requests, self._ours = requests, ours
        self._timing = Timing()
        self._done = 0
        self._count = slice_count(ours.contender, requests, budget.seconds)
        #: Tokens of a request on average.
        self.mean = float(np.mean([sample_length(sample) for sample in requests.take(0, MEAN_OF)]))

    def against_roof(self) -> tuple[str, Paired]:
        """How the fastest products are run, and the pack runner's operations against them."""
        roof = Roof(self._config, self._precision, self._budget.seconds / 4)
        mine = Sliced(self._ours.contender, self._requests, self._count, self._count, self._work, self._timing)
        return str(roof.best), self._run(mine, lambda _: roof.rate(self._budget.seconds / 2))

    def against(self, entry: Entry, roof: Paired) -> Row:
        """Time one contender."""
        count = slice_count(entry.contender, self._requests, self._budget.seconds, entry.unit)
        stride = max(count, self._count)
        mine = Sliced(self._ours.contender, self._requests, self._count, stride, timing=self._timing)
        other = Sliced(entry.contender, self._requests, count, stride)
        paired = self._run(mine, other)
        return self._row(entry, other.timing, paired, roof)

    def own_row(self, roof: Paired) -> Row:
        """The pack runner's own figures, over all its slices."""
        return self._row(self._ours, self._timing, None, roof)

    def _run(self, mine: Side, other: Side) -> Paired:
        now = time.perf_counter()
        share = max(0.0, self._deadline - now) / max(1, _CONTENDERS - self._done)
        self._done += 1
        return run_pairs(mine, other, self._budget.pairs, deadline=now + share)

    def _work(self, lengths: Sequence[int]) -> float:
        return useful_flops(self._config, lengths)

    def _row(self, entry: Entry, timing: Timing, paired: Paired | None, roof: Paired) -> Row:
        rate = timing.tokens_per_second
        share = roof.ratio.median / (1 if paired is None else paired.ratio.median)
        return Row(
            name=entry.contender.name,
            kind=entry.kind,
            offline=entry.offline,
            tokens_per_second=rate,
            samples_per_second=rate / self.mean,
            paired=paired,
            roof_share=share,
            peak_share=None if self.peak is None else share * roof.theirs.median / self.peak.flops,
            padding=timing.padding,
            overhead=timing.overhead,
            requests=len(timing.slices[0].lengths),
            difference=entry.difference,
        )


def measure_all(cases: Sequence[Case], budget: Budget, report: Report) -> Iterator[CaseResult]:
    """Measure the cases one after the other, each in a process of its own: engines keep the memory that they had."""
    deadline = time.perf_counter() + 60 * budget.minutes
    for done, case in enumerate(cases):
        share = (deadline - time.perf_counter()) / (len(cases) - done)
        result = run_alone(_measure_alone, case, replace(budget, minutes=share / 60))
        report(f"{case}: done in {result.seconds:.0f} s")
        yield result


def _measure_alone(case: Case, budget: Budget) -> CaseResult:
    start = time.perf_counter()

    def report(line: str) -> None:
        print(f"{time.perf_counter() - start:8.1f} s  {case}: {line}", flush=True)

    return measure_case(case, budget, report)
