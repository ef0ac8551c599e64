"""The requests that wait for a run, and the choice of the next batch among them. Nothing polls."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Generic, Protocol, TypeVar

from poprt.errors import RunnerClosedError

#: Seconds that the interpreter waits, when it ends, for the runs in progress.
EXIT_PATIENCE = 30.0


class RunFuture(Future[None]):
    """The answer to one request. When it is done, the caller's output arrays hold the results."""

    def wait(self, timeout: float | None = None) -> None:
        """Block until the request is answered.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            PoprtError: the request's own error (or whatever the engine raised for it).
            TimeoutError: no answer within ``timeout``.
        """
        self.result(timeout)


class Request:
    """One request in the queue.

    Attributes:
        size: what it adds to a batch: rows or tokens.
        future: its answer.
        deadline: ``time.monotonic()`` until which it may wait for company; set when it is submitted.
    """

    __slots__ = ("deadline", "future", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.future = RunFuture()
        self.deadline = 0.0


R = TypeVar("R", bound=Request)


class Worker(Protocol[R]):
    """What a batcher needs to know of its runner. It must not hold the runner itself, so that a runner can be freed."""

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether this many waiting requests, of this total size, fill a batch."""

    def choose(self, window: Sequence[R]) -> list[R]:
        """Choose the next batch among waiting requests, oldest first; the oldest is in it."""

    def run(self, batch: Sequence[R]) -> None:
        """Run a batch and fill the output arrays of its requests. Called by several lanes at once."""


class RequestQueue(Generic[R]):
    """The requests that wait, and whether more are taken. Shared by the submitters and the lanes.

    Args:
        worker: chooses the batches.
        timeout: seconds that a request may wait for company when ``send_when_idle`` is off.
        send_when_idle: a batch is due whenever a lane is free.
        limit: requests that may wait; ``put`` blocks while there are so many.
        window: among how many of the oldest requests a batch is chosen.
    """

    def __init__(self, worker: Worker[R], timeout: float, send_when_idle: bool, limit: int, window: int) -> None:
        self.worker = worker
        self.timeout = timeout
        self.send_when_idle = send_when_idle
        self.limit = limit
        self.window = window
        self.waiting: deque[R] = deque()
        self.size = 0
        self.closed = False
        self.cause: BaseException | None = None
        self.lanes: list[threading.Thread] = []
        self._ended_lanes = 0
        lock = threading.Lock()
        self._not_empty = threading.Condition(lock)
        self._not_full = threading.Condition(lock)

    def put(self, request: R) -> None:
        """Add a request; block while the queue is full. Raises RunnerClosedError."""
        # A lane runs the callbacks of futures. One that submits must not wait for the lanes.
        may_block = threading.current_thread() not in self.lanes
        with self._not_full:
            while may_block and not self.closed and len(self.waiting) >= self.limit:
                self._not_full.wait()
            if self.closed:
                raise self.closed_error()
            request.deadline = time.monotonic() + self.timeout
            self.waiting.append(request)
            self.size += request.size
            self._not_empty.notify()

    def take(self) -> tuple[list[R], Exception | None]:
        """Wait until a batch is due.

        Returns:
            The batch, empty when the queue is closed and drained; and the error of a worker that cannot choose, with
            the requests that it could not choose from.
        """
        batch: list[R] = []
        error: Exception | None = None
        with self._not_empty:
            while not (self.closed or self._due()):
                self._not_empty.wait(self._patience())
            window = list(itertools.islice(self.waiting, self.window))
            try:
                batch = self.worker.choose(window) if window else []
            except Exception as caught:
                batch, error = window, caught
            self._remove(batch, window)
            if self.waiting:
                self._not_empty.notify()  # another lane may have slept since the queue was empty
            self._not_full.notify_all()
        return batch, error

    def _remove(self, batch: Sequence[R], window: Sequence[R]) -> None:
        chosen = {id(request) for request in batch}
        for _ in window:
            self.waiting.popleft()
        self.waiting.extendleft(request for request in reversed(window) if id(request) not in chosen)
        self.size -= sum(request.size for request in batch)

    def _due(self) -> bool:
        if not self.waiting:
            return False
        if self.send_when_idle or self.worker.is_full(len(self.waiting), self.size):
            return True
        return time.monotonic() >= self.waiting[0].deadline

    def _patience(self) -> float | None:
        return max(0.0, self.waiting[0].deadline - time.monotonic()) if self.waiting else None

    def close(self, cancel: bool, cause: BaseException | None = None) -> None:
        """Take no more requests; with ``cancel`` also fail those that wait."""
        dropped: list[R] = []
        with self._not_empty:
            self.closed = True
            self.cause = self.cause or cause
            if cancel:
                dropped.extend(self.waiting)
                self.waiting.clear()
                self.size = 0
            self._not_empty.notify_all()
            self._not_full.notify_all()
        self.fail(dropped)

    def fail(self, requests: Sequence[R]) -> None:
        """Answer requests with the error that says why the runner is closed."""
        for request in requests:
            with contextlib.suppress(InvalidStateError):  # answered already, or cancelled by its caller
                request.future.set_exception(self.closed_error())

    def closed_error(self) -> RunnerClosedError:
        """The error of a request that comes too late."""
        if self.cause is None:
            return RunnerClosedError("the runner is closed: make a new one to send requests")
        error = RunnerClosedError(f"a lane of the runner stopped: {self.cause!r}; make a new runner")
        error.__cause__ = self.cause
        return error

    def stop_at_exit(self) -> None:
        """End the lanes before the interpreter goes, so that no engine run is cut off in native code."""
        self.close(cancel=True)
        until = time.monotonic() + EXIT_PATIENCE
        for lane in self.lanes:
            lane.join(max(0.0, until - time.monotonic()))

    def lane_ends(self) -> None:
        """Note that a lane has nothing more to run."""
        with self._not_empty:
            self._ended_lanes += 1
            if self._ended_lanes == len(self.lanes):
                atexit.unregister(self.stop_at_exit)
