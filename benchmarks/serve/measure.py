"""Every server: its vectors first, then its peak in pairs with ours, then latencies at fractions of its own peak."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.drift import Reference, drift
from benchmarks.load import FRACTIONS
from benchmarks.pairs import PAIRS, Paired, Quartiles, run_pairs
from benchmarks.processes import run_alone
from benchmarks.rounds import Report, WrongNumbersError
from benchmarks.serve.contenders import LEAST_COSINE, Contender, other_servers, poprt_servers
from benchmarks.serve.encoders import reference_vectors
from benchmarks.serve.generator import Outcome, closed_loop, open_loop
from benchmarks.serve.http_client import post
from benchmarks.serve.in_process import RunnerCost, runner_cost
from benchmarks.serve.server import RunningServer
from benchmarks.serve.sources import TEXTS, Sources
from benchmarks.serve.starting import ServerError
from benchmarks.serve.vectors import check_cosine
from benchmarks.stalls import Stalls, StallWatch

#: Clients that a server's peak is looked for with.
CLIENTS = (1, 4, 16, 64, 256)


@dataclass(frozen=True)
class Budget:
    """How long things take.

    Attributes:
        seconds: of one load.
        peak_seconds: of a slice at the peak.
        pairs: of slices at the peak.
        clients: numbers of clients that are tried.
        loads: fractions of its own peak that each server is offered.
    """

    seconds: float = 30.0
    peak_seconds: float = 3.0
    pairs: int = PAIRS
    clients: tuple[int, ...] = CLIENTS
    loads: tuple[float, ...] = FRACTIONS


@dataclass(frozen=True)
class Point:
    """One server under one load.

    Attributes:
        fraction: of its own peak that is offered.
        offered, served: texts a second.
        p50, p99, p999: latency in seconds, from the moment a request was due until its answer.
        requests: that were answered.
        failures: that were not, by status.
        cpu_ms: of the server, a text.
        stalls, drift: of the machine meanwhile.
    """

    fraction: float
    offered: float
    served: float
    p50: float
    p99: float
    p999: float
    requests: int
    failures: dict[int, int]
    cpu_ms: float
    stalls: Stalls
    drift: float


@dataclass
class Served:
    """What was measured of one server.

    Attributes:
        cosine: the least to the vectors of sentence-transformers.
        clients: with which it answers most.
        rates: texts a second with so many clients, a slice each.
        cpu_seconds, generator_seconds: of the server and of the load's process, in all slices.
        loop_seconds: of those of the server, what its event loop took.
        texts: that were answered in all slices.
        runner: the same executable's runner without a server; None for the others.
        absent: why nothing was measured; "" where it was.
    """

    name: str
    cosine: float = 0.0
    clients: int = 0
    rates: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    generator_seconds: float = 0.0
    loop_seconds: float = 0.0
    texts: int = 0
    points: list[Point] = field(default_factory=list)
    runner: RunnerCost | None = None
    absent: str = ""

    @property
    def peak(self) -> Quartiles:
        """Texts a second at the peak."""
        return Quartiles.of(self.rates)

    @property
    def cpu_ms(self) -> float:
        """Of the server at its peak, a text."""
        return 1000 * self.cpu_seconds / self.texts

    @property
    def loop_ms(self) -> float:
        """Of the server's event loop at its peak, a text."""
        return 1000 * self.loop_seconds / self.texts

    @property
    def generator_ms(self) -> float:
        """Of the load's process at the peak, a text."""
        return 1000 * self.generator_seconds / self.texts


@dataclass(frozen=True)
class PeakRatio:
    """Our peak over another's, slices in turn."""

    ours: str
    theirs: str
    paired: Paired


@dataclass(frozen=True)
class ServeResult:
    """All servers, ours first, and how their peaks compare."""

    texts: str
    served: list[Served]
    ratios: list[PeakRatio]


class Side:
    """A running server at its peak, as one side of pairs."""

    def __init__(self, server: RunningServer, requests: Sequence[bytes], seconds: float, served: Served) -> None:
        self.server, self.served = server, served
        self._requests, self._seconds = requests, seconds

    def __call__(self, _turn: int) -> float:
        """Answer as fast as it can for a slice; return texts a second."""
        before = self.server.loop_seconds()
        outcome, cpu_seconds = self.ask(self.served.clients)
        self.served.loop_seconds += self.server.loop_seconds() - before
        rate = len(outcome.latencies) / outcome.seconds
        self.served.rates.append(rate)
        self.served.cpu_seconds += cpu_seconds
        self.served.generator_seconds += outcome.cpu_seconds
        self.served.texts += len(outcome.latencies)
        return rate

    def ask(self, clients: int) -> tuple[Outcome, float]:
        """One slice with so many clients, and the server's CPU time.

        Raises:
            ServerError: it answered none.
        """
        before = self.server.cpu_seconds()
        outcome = run_alone(closed_loop, self.server.port, self._requests, clients, self._seconds)
        if not outcome.latencies:
            raise ServerError(f"{self.served.name}: no answer but {dict(outcome.failures)} (status: times)")
        return outcome, self.server.cpu_seconds() - before

    def choose_clients(self, candidates: Sequence[int]) -> None:
        """Keep the number of clients with which it answers most."""
        rates = {clients: self._rate(clients) for clients in candidates}
        self.served.clients = max(rates, key=rates.__getitem__)

    def _rate(self, clients: int) -> float:
        outcome, _ = self.ask(clients)
        return len(outcome.latencies) / outcome.seconds

    def offer(self, fraction: float, seconds: float) -> Point:
        """A fraction of the peak, by the clock."""
        reference = Reference()
        rate = fraction * self.served.peak.median
        notes, before = [reference.seconds() for _ in range(3)], self.server.cpu_seconds()
        with StallWatch() as watch:
            outcome = run_alone(open_loop, self.server.port, self._requests, rate, seconds)
        cpu_seconds = self.server.cpu_seconds() - before
        notes += [reference.seconds() for _ in range(3)]
        return _point(fraction, rate, outcome, cpu_seconds, Stalls.of(watch.lateness), drift(notes))


def _point(fraction: float, rate: float, outcome: Outcome, cpu_seconds: float, stalls: Stalls, moved: float) -> Point:
    answered = len(outcome.latencies)
    latencies = outcome.latencies or [float("inf")]
    p50, p99, p999 = (float(value) for value in np.quantile(latencies, [0.5, 0.99, 0.999]))
    cpu_ms = 1000 * cpu_seconds / max(1, answered)
    served = answered / outcome.seconds
    return Point(fraction, rate, served, p50, p99, p999, answered, dict(outcome.failures), cpu_ms, stalls, moved)


def measure_servers(sources: Sources, infinity: Path, texts: str, budget: Budget, report: Report) -> ServeResult:
    """Measure all servers, one of the others at a time beside ours."""
    ours, others = poprt_servers(sources), other_servers(sources, infinity)
    measurement = _Measurement(sources, texts, budget, report)
    with ExitStack() as running:
        sides = [measurement.opened(contender, running) for contender in ours]
        for contender in others:
            measurement.against(contender, sides)
        for side in sides:
            if not side.served.rates:  # nobody was there to compare with
                side(0)
            measurement.offer(side)
    for served, executable in zip(measurement.served, sources.executables.values(), strict=False):
        served.runner = run_alone(
            runner_cost, executable, TEXTS[texts](), served.clients, budget.peak_seconds * budget.pairs / 2
        )
    return ServeResult(texts, measurement.served, measurement.ratios)


class _Measurement:
    def __init__(self, sources: Sources, texts: str, budget: Budget, report: Report) -> None:
        self._texts, self._budget, self._report = TEXTS[texts](), budget, report
        self._reference = reference_vectors(sources, self._texts, report)
        self.served: list[Served] = []
        self.ratios: list[PeakRatio] = []

    def opened(self, contender: Contender, running: ExitStack) -> Side:
        """Start a server, check its vectors, and find the number of clients for its peak."""
        server = running.enter_context(RunningServer(contender))
        cosine = check_cosine(
            contender.name, server.embed(self._texts), self._reference, LEAST_COSINE[contender.precision]
        )
        served = Served(contender.name, cosine=cosine)
        self.served.append(served)
        requests = [post(contender.path, contender.body(text)) for text in self._texts]
        side = Side(server, requests, self._budget.peak_seconds, served)
        side.choose_clients(self._budget.clients)
        self._report(f"{contender.name}: least cosine {cosine:.6f}; most texts/s with {served.clients} clients")
        return side

    def against(self, contender: Contender, sides: Sequence[Side]) -> None:
        """Compare each of ours with another, and offer it its loads; note why where it is not there."""
        if contender.absent:
            self.served.append(Served(contender.name, absent=contender.absent))
            return
        try:
            with ExitStack() as running:
                other = self.opened(contender, running)
                for side in sides:
                    paired = run_pairs(side, other, self._budget.pairs)
                    self.ratios.append(PeakRatio(side.served.name, contender.name, paired))
                    self._report(f"{side.served.name}: {paired.ratio.median:.2f} x the peak of {contender.name}")
                self.offer(other)
        except (ServerError, WrongNumbersError) as error:
            self._report(str(error))
            self.served = [each for each in self.served if each.name != contender.name]
            self.served.append(Served(contender.name, absent=str(error).splitlines()[0]))

    def offer(self, side: Side) -> None:
        """Offer a server the fractions of its own peak."""
        for fraction in self._budget.loads:
            point = side.offer(fraction, self._budget.seconds)
            side.served.points.append(point)
            self._report(f"{side.served.name}: {fraction:.0%} of its peak, p99 {1e3 * point.p99:.0f} ms")
