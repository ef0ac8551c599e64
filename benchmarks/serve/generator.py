"""The load: requests over HTTP from one process, by clients that wait for their answer or by the clock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from benchmarks.arrivals import poisson_arrivals
from benchmarks.serve.http_client import Answer, Connection, NoAnswerError

T = TypeVar("T")
#: Connections of an open loop, at most. What is due while all are busy waits, and its time counts.
CONNECTIONS = 512
#: Seconds after the last request was due in which all must be answered.
PATIENCE = 120.0
_OPENED = 8  # connections before an open loop begins


@dataclass
class Outcome:
    """What came of a load.

    Attributes:
        latencies: of each request that was answered with 200, in seconds: from when it was due, or sent.
        failures: other answers by status; 0 is a connection that was closed without one.
        seconds: from the first request to the last answer.
        cpu_seconds: of this process, meanwhile.
    """

    latencies: list[float] = field(default_factory=list)
    failures: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def note(self, latency: float, answer: asyncio.Future[Answer]) -> None:
        """Count an answer, or that there was none."""
        if answer.exception() is not None:
            self.failures[0] += 1
        elif answer.result().status != 200:
            self.failures[answer.result().status] += 1
        else:
            self.latencies.append(latency)


def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Outcome:
    """``clients`` connections, each of which asks again as soon as it is answered, until ``seconds`` have passed."""
    return _timed(partial(_closed, port, requests, clients, seconds))


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> Outcome:
    """``rate`` requests a second at random times (Poisson), whether or not the server keeps up.

    Raises:
        TimeoutError: the server is far behind: not all were answered in :data:`PATIENCE` seconds.
    """
    return _timed(partial(_open, port, requests, poisson_arrivals(rate, max(20, round(rate * seconds)), seed)))


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop where it is installed: it takes half the time of asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _timed(load: Callable[[Outcome], Coroutine[Any, Any, None]]) -> Outcome:
    outcome = Outcome()

    async def main() -> None:
        begin, cpu = time.perf_counter(), time.process_time()
        await load(outcome)
        outcome.seconds, outcome.cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu

    run_loop(main())
    return outcome


async def _closed(port: int, requests: Sequence[bytes], clients: int, seconds: float, outcome: Outcome) -> None:
    deadline = time.perf_counter() + seconds
    numbers = iter(range(1 << 62))

    async def client() -> None:
        connection = await Connection.open(port)
        while time.perf_counter() < deadline:
            begin = time.perf_counter()
            answer = connection.ask(requests[next(numbers) % len(requests)])
            with contextlib.suppress(NoAnswerError):
                await answer
            outcome.note(time.perf_counter() - begin, answer)
            if connection.closed:
                connection = await Connection.open(port)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))


async def _open(port: int, requests: Sequence[bytes], arrivals: Sequence[float], outcome: Outcome) -> None:
    load = _OpenLoop(port, requests, arrivals, outcome)
    await load.connect()
    async with asyncio.timeout(arrivals[-1] + PATIENCE):
        await load.run()
    load.close()


class _OpenLoop:
    def __init__(self, port: int, requests: Sequence[bytes], arrivals: Sequence[float], outcome: Outcome) -> None:
        self._port, self._requests, self._arrivals, self._outcome = port, requests, arrivals, outcome
        self._idle: list[Connection] = []
        self._waiting: deque[int] = deque()
        self._connections = 0
        self._left = len(arrivals)
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._start = 0.0

    async def connect(self) -> None:
        for _ in range(_OPENED):
            self._idle.append(await Connection.open(self._port))
        self._connections = _OPENED

    async def run(self) -> None:
        self._start = time.perf_counter()
        for number, due in enumerate(self._arrivals):
            while (wait := self._start + due - time.perf_counter()) > 0:  # a loop's timer may be early
                await asyncio.sleep(wait)
            self._send(number)
            if wait < -0.001:
                await asyncio.sleep(0)  # behind: answers are read all the same
        await self._done.wait()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _send(self, number: int) -> None:
        while self._idle and self._idle[-1].closed:  # by a server that keeps none open for long without a request
            self._idle.pop()
            self._connections -= 1
        if self._idle:
            self._ask(self._idle.pop(), number)
        elif self._connections < CONNECTIONS:
            self._connections += 1
            task = asyncio.create_task(self._ask_anew(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._waiting.append(number)

    async def _ask_anew(self, number: int) -> None:
        self._ask(await Connection.open(self._port), number)

    def _ask(self, connection: Connection, number: int) -> None:
        answer = connection.ask(self._requests[number % len(self._requests)])
        answer.add_done_callback(partial(self._answered, connection, number))

    def _answered(self, connection: Connection, number: int, answer: asyncio.Future[Answer]) -> None:
        self._outcome.note(time.perf_counter() - self._start - self._arrivals[number], answer)
        self._left -= 1
        if not self._left:
            self._done.set()
        if connection.closed:
            self._connections -= 1
        else:
            self._idle.append(connection)
        if self._waiting:
            self._send(self._waiting.popleft())
