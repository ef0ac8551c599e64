"""A request and its answer."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Protocol, TypeVar

from poprt.errors import RunnerClosedError

logger = logging.getLogger("poprt")


class Withdraws(Protocol):
    """A queue from which requests can be taken."""

    def withdraw(self, ticket: int) -> bool:
        """Take out the request of a ticket and tell whether it was there still."""


class RunFuture(Future[None]):
    """The answer to one request. When it is done, the caller's output arrays hold the results.

    Attributes:
        queue_seconds: how long it waited for its run; 0 until then.
    """

    queue_seconds = 0.0
    _queue: Withdraws | None = None  # while the request waits in one
    _ticket: int

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def wait_in(self, queue: Withdraws, ticket: int) -> None:
        """Note that the request waits in a queue, under a ticket."""
        self._queue, self._ticket = queue, ticket

    def cancel(self) -> bool:
        """Cancel the request, if it does not run yet. It leaves the queue at once.

        Returns:
            Whether it is cancelled: False where it runs or was answered.
        """
        queue = self._queue
        if queue is None or self.running() or not queue.withdraw(self._ticket):
            return super().cancel()  # where a lane has taken it, the lane tells those who wait
        try:
            return super().cancel()
        finally:  # no lane will see it, whatever a callback raises
            if self.begin():  # its caller said at this very moment that it runs
                self.answer(CancelledError())

    def begin(self) -> bool:
        """Tell whether the request is to be run: not where its caller cancelled or answered it meanwhile."""
        self._queue = None  # an answered future keeps none alive
        if self.running():  # its caller said so
            return True
        if self.done() and not self.cancelled():
            return False
        try:
            return self.set_running_or_notify_cancel()
        except (InvalidStateError, RuntimeError):  # its caller answered it at this very moment
            return False

    def answer(self, error: BaseException | None = None) -> None:
        """Set the result, or the error. A future that its caller answered or cancelled keeps that answer."""
        with contextlib.suppress(InvalidStateError):
            if error is None:
                self.set_result(None)
            else:
                self.set_exception(error)

    def refuse(self, error: BaseException) -> None:
        """Answer a request that is not run, unless its caller cancelled or answered it."""
        if self.begin():
            self.answer(error)

    def add_done_callback(self, fn: Callable[[Future[None]], object]) -> None:
        """Add a callback; a lane may run it. Whatever it raises there is logged and has no other effect."""
        super().add_done_callback(functools.partial(_call, fn))

    def result(self, timeout: float | None = None) -> None:
        """Wait as ``concurrent.futures.Future.result`` does; RunnerClosedError in a fork, where no answer can come."""
        self._check_process()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as ``concurrent.futures.Future.exception`` does; RunnerClosedError in a fork."""
        self._check_process()
        return super().exception(timeout)

    def _check_process(self) -> None:
        if os.getpid() != self._process and not self.done():
            raise in_another_process()

    def wait(self, timeout: float | None = None) -> None:
        """Block until the request is answered.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            PoprtError: the request's own error (or whatever the engine raised for it).
            TimeoutError: no answer within ``timeout``.
        """
        self.result(timeout)


def _call(callback: Callable[[Future[None]], object], future: Future[None]) -> None:
    try:
        callback(future)
    except Exception:
        raise  # concurrent.futures logs it
    except BaseException:  # KeyboardInterrupt, SystemExit: the main thread's own, but no end of a lane
        if threading.current_thread() is threading.main_thread():
            raise
        logger.exception("a callback of a future raised; it has no effect on the runner")


class Flow:
    """Requests to one runner that take turns with those of others: many of them do not put off a few of another flow.

    Attributes:
        end: virtual time at which its last request ends, in parts of a token.
        waiting: how many of its requests wait.
    """

    __slots__ = ("end", "waiting")

    def __init__(self) -> None:
        self.end = 0
        self.waiting = 0


class Request:
    """One request in the queue.

    Attributes:
        size: what it adds to a batch: rows or tokens.
        kind: requests of different kinds never share a batch.
        future: its answer.
        queued: ``time.perf_counter()`` when it was let into the queue.
        ticket, start, flow: its number, place and company there (:mod:`poprt.runtime.fair_order`).
    """

    __slots__ = ("flow", "future", "kind", "queued", "size", "start", "ticket")
    queued: float
    ticket: int
    start: int
    flow: Flow | None

    def __init__(self, size: int, kind: Hashable = None) -> None:
        self.size = size
        self.kind = kind
        self.future = RunFuture()


R = TypeVar("R", bound=Request)


def in_another_process() -> RunnerClosedError:
    """The error of a runner that is used in a fork of its process: a fork copies no threads, so it has no lanes."""
    return RunnerClosedError(
        "the runner was made before this process was forked, and its threads are not here: make the runner in the "
        "child, or start processes with 'spawn'"
    )
