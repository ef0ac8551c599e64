"""Open-loop load: requests arrive by a Poisson process, whether or not the server keeps up."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.arrivals import poisson_arrivals
from benchmarks.contenders import OnnxRuntime, Packed, Sample, sample_length
from benchmarks.ours import runner_contender
from benchmarks.plain_queue import PlainQueue
from benchmarks.rounds import Report
from benchmarks.stalls import Stalls, StallWatch
from benchmarks.workloads import ROWS, Lengths, Requests, build, compile_packed, config_of

FRACTIONS = (0.3, 0.5, 0.7, 0.9)


class Server(Protocol):
    """Answers requests."""

    def submit(self, sample: Sample) -> Future[Any]:
        """Queue a request."""

    def close(self) -> None:
        """Answer what waits, and stop."""


class PackServer:
    """A pack runner as a server."""

    def __init__(self, contender: Packed) -> None:
        self._contender = contender

    def submit(self, sample: Sample) -> Future[Any]:
        """Queue a request with buffers of its own."""
        return self._contender.runner.execute_async(sample, self._contender.buffers(sample_length(sample)))

    def close(self) -> None:
        """Answer what waits, and stop."""
        self._contender.runner.close()


@dataclass(frozen=True)
class Point:
    """One server under one load.

    Attributes:
        fraction: of the pack runner's peak that is offered.
        offered, served: requests a second.
        p50, p99, p999: latency in seconds, from the moment a request was due to arrive until its answer.
        requests: that were sent.
        stalls: of the machine itself meanwhile.
    """

    server: str
    fraction: float
    offered: float
    served: float
    p50: float
    p99: float
    p999: float
    requests: int
    stalls: Stalls

    @property
    def kept_up(self) -> bool:
        """Whether the server answered about as fast as requests came; if not, its latency grows with the time."""
        return self.served >= 0.9 * self.offered


@dataclass(frozen=True)
class LoadResult:
    """Every server under every load.

    Attributes:
        peaks: requests a second with all requests waiting, by server.
    """

    size: str
    lengths: Lengths
    peaks: dict[str, float]
    points: list[Point]


def measure_load(
    size: str, lengths: Lengths, seconds: float, rounds: int, report: Report, *, queue_seconds: float = 8.0
) -> LoadResult:
    """Find each server's peak, then offer both the same loads in turns: fractions of the pack runner's peak.

    Args:
        size, lengths: model and requests.
        seconds: of a load, about.
        rounds: times that each load is offered to each server; latencies of all are taken together.
        report: takes lines of progress.
        queue_seconds: of a load for the plain queue, at most; where it cannot keep up, more time adds nothing.
    """
    model = build(size)
    servers: dict[str, Server] = {
        "poprt: pack runner": PackServer(runner_contender(compile_packed(model, lengths.longest))),
        "plain batching queue": PlainQueue(OnnxRuntime(model.SerializeToString()), ROWS, lengths.longest),
    }
    times = dict(zip(servers, (seconds, min(seconds, queue_seconds)), strict=True))
    requests = Requests(lengths, config_of(size).vocab)
    try:
        peaks = {name: _peak(server, requests, times[name]) for name, server in servers.items()}
        for name, peak in peaks.items():
            report(f"{name}: {peak:.1f} requests/s with all requests waiting")
        top = next(iter(peaks.values()))
        points = []
        for fraction in FRACTIONS:
            for name, server in servers.items():
                offered = offer_load(server, requests, fraction * top, times[name], rounds)
                points.append(_point(name, fraction, fraction * top, offered))
            report(f"{fraction:.0%} of the pack runner's peak: done")
    finally:
        for server in servers.values():
            server.close()
    return LoadResult(size, lengths, peaks, points)


def _peak(server: Server, requests: Requests, seconds: float) -> float:
    """Requests a second with all of them waiting, over about ``seconds``, 10 at most."""
    seconds = min(seconds, 10.0)
    count, taken = 2 * ROWS, 0.0
    while True:
        begin = time.perf_counter()
        for future in [server.submit(sample) for sample in requests.take(0, count)]:
            future.result()
        taken = time.perf_counter() - begin
        if taken >= seconds / 2:
            return count / taken
        count = int(count * min(8.0, max(1.5, seconds / taken)))


@dataclass
class Offered:
    """What came of a load: seconds of latency of each request, seconds in all, and how late a sleeper woke."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    lateness: list[float] = field(default_factory=list)


def offer_load(server: Server, requests: Requests, rate: float, seconds: float, rounds: int) -> Offered:
    """Offer ``rate`` requests a second for ``seconds``, ``rounds`` times with arrivals of their own."""
    count = max(2 * ROWS, round(rate * seconds))
    offered = Offered()
    for turn in range(rounds):
        samples = requests.take(turn * count, count)
        with StallWatch() as watch:
            latencies, taken = offer(server, samples, poisson_arrivals(rate, count, seed=turn))
        offered.latencies += latencies
        offered.seconds += taken
        offered.lateness += watch.lateness
    return offered


def _point(server: str, fraction: float, rate: float, offered: Offered) -> Point:
    sent = len(offered.latencies)
    p50, p99, p999 = (float(value) for value in np.quantile(offered.latencies, [0.5, 0.99, 0.999]))
    stalls = Stalls.of(offered.lateness)
    return Point(server, fraction, rate, sent / offered.seconds, p50, p99, p999, sent, stalls)


def offer(server: Server, samples: Sequence[Sample], arrivals: Sequence[float]) -> tuple[list[float], float]:
    """Send each request when it is due, and wait for all answers.

    Returns:
        The latencies in seconds, from due arrival to answer, and the seconds from the start to the last answer.

    Raises:
        Exception: the error of the first request that failed.
    """
    answered = [0.0] * len(samples)
    all_done = threading.Semaphore(0)
    futures: list[Future[Any]] = []

    def note(index: int) -> None:
        answered[index] = time.perf_counter()
        all_done.release()

    start = time.perf_counter()
    for index, (sample, due) in enumerate(zip(samples, arrivals, strict=True)):
        time.sleep(max(0.0, start + due - time.perf_counter()))
        future = server.submit(sample)
        futures.append(future)
        future.add_done_callback(lambda _, index=index: note(index))  # type: ignore[misc]
    for _ in samples:
        all_done.acquire()
    for future in futures:
        future.result()
    return [at - start - due for at, due in zip(answered, arrivals, strict=True)], max(answered) - start
