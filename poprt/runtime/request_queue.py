"""The requests that wait for a run, and the choice of the next batch among them. Nothing polls."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from poprt.errors import RunnerClosedError
from poprt.runtime.request import Request, in_another_process

#: Seconds that the interpreter waits, when it ends, for the runs in progress.
EXIT_PATIENCE = 30.0


R = TypeVar("R", bound=Request)


class Worker(Protocol[R]):
    """What a batcher needs to know of its runner. It must not hold the runner itself, so that a runner can be freed."""

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether this many waiting requests of one kind, of this total size, fill a batch."""

    def choose(self, window: Sequence[R]) -> list[R]:
        """Choose the next batch among waiting requests, oldest first; the oldest is in it.

        Empty to wait until a batch that runs is released.
        """

    def release(self, batch: Sequence[R]) -> None:
        """A batch that was chosen has run. Called like ``choose``, by one thread at a time."""

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
        self._tallies: dict[Hashable, list[int]] = {}  # kind -> how many wait, and their size
        self._process = os.getpid()
        self.closed = False
        self.cause: BaseException | None = None
        self.lanes: list[threading.Thread] = []
        self._ended_lanes = 0
        lock = threading.Lock()
        self._not_empty = threading.Condition(lock)
        self._not_full = threading.Condition(lock)
        self._released = threading.Condition(lock)

    def put(self, request: R) -> None:
        """Add a request; block while the queue is full. Raises RunnerClosedError."""
        if self.is_elsewhere():  # before the lock: a thread that held it was not copied into this process
            raise in_another_process()
        # A lane runs the callbacks of futures. One that submits must not wait for the lanes.
        may_block = threading.current_thread() not in self.lanes
        with self._not_full:
            while may_block and not self.closed and len(self.waiting) >= self.limit:
                self._not_full.wait()
            if self.closed:
                raise self.closed_error()
            request.deadline = time.monotonic() + self.timeout
            self.waiting.append(request)
            self._tally(request, 1)
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
            while not batch:
                while not (self.closed or self._due()):
                    self._not_empty.wait(self._patience())
                window = list(itertools.islice(self.waiting, self.window))
                if not window:
                    break
                try:
                    batch = self.worker.choose(window)
                except Exception as caught:
                    batch, error = window, caught
                if not batch:
                    self._released.wait()
            self._remove(batch, window)
            if self.waiting:
                self._not_empty.notify()  # another lane may have slept since the queue was empty
            self._not_full.notify_all()
        return batch, error

    def release(self, batch: Sequence[R]) -> None:
        """Note that a batch that was taken has run: the next may need what it held."""
        with self._released:
            self.worker.release(batch)
            self._released.notify_all()

    def _remove(self, batch: Sequence[R], window: Sequence[R]) -> None:
        chosen = {id(request) for request in batch}
        for _ in window:
            self.waiting.popleft()
        self.waiting.extendleft(request for request in reversed(window) if id(request) not in chosen)
        for request in batch:
            self._tally(request, -1)

    def _tally(self, request: R, step: int) -> None:
        tally = self._tallies.setdefault(request.kind, [0, 0])
        tally[0] += step
        tally[1] += step * request.size
        if not tally[0]:
            del self._tallies[request.kind]

    def _due(self) -> bool:
        if not self.waiting:
            return False
        if self.send_when_idle or self.worker.is_full(*self._tallies[self.waiting[0].kind]):
            return True
        # No batch is chosen among more requests than these, so waiting longer brings the oldest no more company.
        if len(self.waiting) >= min(self.window, self.limit):
            return True
        return time.monotonic() >= self.waiting[0].deadline

    def _patience(self) -> float | None:
        return max(0.0, self.waiting[0].deadline - time.monotonic()) if self.waiting else None

    def close(self, cancel: bool, cause: BaseException | None = None) -> None:
        """Take no more requests; with ``cancel`` also fail those that wait. Nothing in a forked process."""
        if self.is_elsewhere():
            return
        dropped: list[R] = []
        with self._not_empty:
            self.closed = True
            self.cause = self.cause or cause
            if cancel:
                dropped.extend(self.waiting)
                self.waiting.clear()
                self._tallies.clear()
            for condition in (self._not_empty, self._not_full, self._released):
                condition.notify_all()
        self.fail(dropped)

    def fail(self, requests: Sequence[R]) -> None:
        """Answer requests with the error that says why the runner is closed."""
        with contextlib.ExitStack() as stack:  # all are answered, whatever a callback raises in the main thread
            for request in reversed(requests):
                stack.callback(request.future.answer, self.closed_error())

    def is_elsewhere(self) -> bool:
        """Whether this process is a fork of the one in which the lanes run."""
        return os.getpid() != self._process

    def closed_error(self) -> RunnerClosedError:
        """The error of a request that comes too late."""
        if self.cause is None:
            return RunnerClosedError("the runner is closed: make a new one to send requests")
        error = RunnerClosedError(f"a lane of the runner stopped: {self.cause!r}; make a new runner")
        error.__cause__ = self.cause
        return error

    def stop_at_exit(self) -> None:
        """End the lanes before the interpreter goes, so that no engine run is cut off in native code."""
        if self.is_elsewhere():
            return
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
