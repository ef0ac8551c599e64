"""One dispatcher thread that forms batches and answers futures. Nothing polls.

A batch is sent as soon as the engine is free (or, with ``send_when_idle`` off, when it is full or its oldest request
has waited its timeout). While the engine runs, later requests gather and share the next batch.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Generic, Protocol, TypeVar

from poprt.errors import PoprtError, RunnerClosedError

logger = logging.getLogger("poprt")

#: Seconds that the interpreter waits, when it ends, for the run in progress.
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

    def plan(self, window: Sequence[R]) -> list[list[R]]:
        """Split waiting requests, oldest first, in batches; the batch with the oldest comes first."""

    def run(self, batch: Sequence[R]) -> None:
        """Run a batch and fill the output arrays of its requests."""


class _Queue(Generic[R]):
    """The requests that wait, and whether the batcher is open. Shared by the submitters and the dispatcher."""

    def __init__(self, worker: Worker[R], timeout: float, send_when_idle: bool, limit: int, window: int) -> None:
        self.worker = worker
        self.timeout = timeout
        self.send_when_idle = send_when_idle
        self.limit = limit
        self.window = window
        self.waiting: deque[R] = deque()
        self.size = 0
        self.closed = False
        self.cancelled = False
        self.cause: BaseException | None = None
        self.dispatcher: threading.Thread | None = None
        lock = threading.Lock()
        self.not_empty = threading.Condition(lock)
        self.not_full = threading.Condition(lock)

    def put(self, request: R) -> None:
        # The dispatcher runs the callbacks of futures. One that submits must not wait for the dispatcher.
        may_block = threading.current_thread() is not self.dispatcher
        with self.not_full:
            while may_block and not self.closed and len(self.waiting) >= self.limit:
                self.not_full.wait()
            if self.closed:
                raise self.closed_error()
            request.deadline = time.monotonic() + self.timeout
            self.waiting.append(request)
            self.size += request.size
            self.not_empty.notify()

    def take(self) -> list[R]:
        """Wait until a batch is due; return the oldest requests, or nothing when closed and drained."""
        with self.not_empty:
            while not (self.closed or self._due()):
                self.not_empty.wait(self._patience())
            taken = [self.waiting.popleft() for _ in range(min(self.window, len(self.waiting)))]
            self.size -= sum(request.size for request in taken)
            self.not_full.notify_all()
            return taken

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
        with self.not_empty:
            self.closed = True
            self.cause = self.cause or cause
            self.cancelled = self.cancelled or cancel
            if cancel:
                dropped.extend(self.waiting)
                self.waiting.clear()
                self.size = 0
            self.not_empty.notify_all()
            self.not_full.notify_all()
        self.fail(dropped)

    def fail(self, requests: Sequence[R]) -> None:
        for request in requests:
            with contextlib.suppress(InvalidStateError):  # answered already, or cancelled by its caller
                request.future.set_exception(self.closed_error())

    def closed_error(self) -> RunnerClosedError:
        if self.cause is None:
            return RunnerClosedError("the runner is closed: make a new one to send requests")
        error = RunnerClosedError(f"the runner's dispatcher stopped: {self.cause!r}; make a new runner")
        error.__cause__ = self.cause
        return error

    def stop_at_exit(self) -> None:
        """End the thread before the interpreter goes, so that no engine run is cut off in native code."""
        self.close(cancel=True)
        if self.dispatcher is not None:
            self.dispatcher.join(EXIT_PATIENCE)


def _dispatch(queue: _Queue[R]) -> None:
    """Body of the dispatcher thread. It holds the queue and its worker, never the runner."""
    taken: list[R] = []
    try:
        while taken := queue.take():
            _serve(queue, taken)
            taken = []  # an idle dispatcher keeps no arrays of answered requests alive
    except BaseException as error:
        logger.critical("the dispatcher stopped", exc_info=True)
        queue.close(cancel=True, cause=error)
        queue.fail(taken)
    finally:
        atexit.unregister(queue.stop_at_exit)


def _serve(queue: _Queue[R], window: Sequence[R]) -> None:
    try:
        batches = queue.worker.plan(window)
    except Exception as error:
        batches = []
        for request in window:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(error)
    for batch in batches:
        if queue.cancelled:
            queue.fail(batch)
        else:
            _run(queue.worker, [request for request in batch if request.future.set_running_or_notify_cancel()])


def _run(worker: Worker[R], batch: Sequence[R]) -> None:
    if not batch:
        return
    try:
        worker.run(batch)
    except Exception as error:
        if len(batch) > 1:
            # One request may have spoilt the batch (an id outside the vocabulary). Its neighbours deserve answers.
            logger.warning("a batch of %d failed, each request is run alone: %s", len(batch), error)
            for request in batch:
                _run(worker, [request])
        else:
            batch[0].future.set_exception(error)
    else:
        for request in batch:
            request.future.set_result(None)


class Batcher(Generic[R]):
    """A bounded queue in front of a worker.

    Args:
        worker: forms and runs batches.
        timeout: seconds that a request may wait for company when ``send_when_idle`` is off.
        send_when_idle: send what is there whenever the engine is free.
        limit: requests that may wait; ``submit`` blocks while there are so many.
        window: requests that are planned together. A request is overtaken only within its window.
    """

    def __init__(
        self,
        worker: Worker[R],
        *,
        timeout: float = 0.0,
        send_when_idle: bool = True,
        limit: int = 4096,
        window: int = 128,
    ) -> None:
        self._queue = _Queue(worker, timeout, send_when_idle, limit, window)
        self._thread = threading.Thread(target=_dispatch, args=(self._queue,), name="poprt-dispatcher", daemon=True)
        self._queue.dispatcher = self._thread
        # A batcher that is dropped without close() answers what is pending, then its thread ends.
        weakref.finalize(self, self._queue.close, False).atexit = False
        atexit.register(self._queue.stop_at_exit)
        self._thread.start()

    def submit(self, request: R) -> RunFuture:
        """Queue a request; block while the queue is full.

        Raises:
            RunnerClosedError: the batcher is closed or its dispatcher died.
        """
        self._queue.put(request)
        return request.future

    def check_may_wait(self) -> None:
        """Raise PoprtError in the dispatcher's own thread, where waiting for an answer would never end."""
        if threading.current_thread() is self._thread:
            raise PoprtError(
                "execute() was called from a future's callback, where it would wait for itself: use execute_async()"
            )

    def pending(self) -> int:
        """Return how many requests wait."""
        return len(self._queue.waiting)

    def close(self, cancel: bool = False) -> None:
        """Take no more requests and end the thread. Those that wait are answered, or with ``cancel`` failed."""
        self._queue.close(cancel)
        if threading.current_thread() is not self._thread:
            self._thread.join()
