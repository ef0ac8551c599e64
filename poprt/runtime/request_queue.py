"""The requests that wait for a run, and the choice of the next batch among them. Nothing polls."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic

from poprt.errors import RunnerClosedError
from poprt.runtime.admission import Pending, QueueLimits
from poprt.runtime.company_wait import CompanyWait
from poprt.runtime.fair_order import FairOrder
from poprt.runtime.request import Flow, R, in_another_process
from poprt.runtime.worker import Worker

logger = logging.getLogger("poprt")

#: Seconds that the interpreter waits, when it ends, for the runs in progress.
EXIT_PATIENCE = 30.0
#: Seconds that one who cancels waits for the lock. Nobody has it for so long but the same thread, which collected a
#: forgotten call while it had the lock.
_LOCK_PATIENCE = 1.0
#: How often a submitter finds room taken by others before they let it go first.
_PASSED_OVER = 16


class RequestQueue(Generic[R]):
    """The requests that wait, and whether more are taken. Shared by the submitters and the lanes.

    Args:
        worker: chooses the batches.
        limits: how much may wait.
        window: among how many of the first requests a batch is chosen.
        company: how long requests wait for company; None: a batch is due whenever a lane is free.
    """

    def __init__(
        self, worker: Worker[R], limits: QueueLimits, window: int, company: CompanyWait[R] | None = None
    ) -> None:
        self.worker = worker
        self.limits = limits
        self._order: FairOrder[R] = FairOrder(window)
        self._tokens = 0
        self._company = company
        self._process = os.getpid()
        self.closed = False
        self.cause: BaseException | None = None
        self._told: list[Callable[[BaseException], object]] = []  # where a lane dies
        self.lanes: list[threading.Thread] = []
        self._ended_lanes = 0
        self.running = 0
        self._blocked: dict[object, int] = {}  # whoever waits for room, and the size of its request
        self._next: object = None  # of these the one that goes first, where one was passed over
        self._stalled = 0  # lanes that wait until a batch is released
        self._lock = threading.Lock()
        self._not_empty = threading.Condition(self._lock)
        self._not_full = threading.Condition(self._lock)
        self._released = threading.Condition(self._lock)

    def pending(self) -> Pending:
        """Return what waits. Raises RunnerClosedError in a forked process."""
        self.check_process()
        with self._lock:
            return self._pending()

    def put(self, request: R, flow: Flow | None = None) -> None:
        """Add a request; block while the queue is full. Raises RunnerClosedError."""
        if os.getpid() != self._process:
            raise in_another_process()
        with self._lock:
            if self._next is not None or not self._fits(request.size):
                self._wait_for_room(request.size)
            if self.closed:
                raise self.closed_error()
            self._admit(request, flow)
            self._not_empty.notify()

    def put_all(self, requests: Sequence[R]) -> None:
        """Add requests as a flow of their own, all of them or, with QueueFullError, none. Raises RunnerClosedError."""
        self.check_process()
        flow, size = Flow(), sum(request.size for request in requests)
        with self._lock:
            if self.closed:
                raise self.closed_error()
            if requests and not self.limits.admit(len(self._order), self._tokens, len(requests), size):
                raise self.limits.refusal(self._pending(), Pending(len(requests), size))
            for request in requests:
                self._admit(request, flow)
            self._not_empty.notify()

    def withdraw(self, ticket: int) -> bool:
        """Take out a request that is cancelled and tell whether it was there still."""
        if self.is_elsewhere() or not self._lock.acquire(timeout=_LOCK_PATIENCE):
            return False
        try:
            request = self._order.discard(ticket)
            if request is None:
                return False
            self._count([request])
            self._not_full.notify_all()
            if self._stalled:
                self._released.notify_all()
            return True
        finally:
            self._lock.release()

    def take(self) -> tuple[list[R], Exception | None]:
        """Wait until a batch is due. Where there is no error, ``release`` it when it has run.

        Returns:
            The batch, empty when the queue is closed and drained; and the error of a worker that cannot choose, with
            the requests that it could not choose from.
        """
        batch: list[R] = []
        error: Exception | None = None
        with self._lock:
            while not batch:
                while not (self.closed or self._due()):
                    self._not_empty.wait(self._company.patience(self._order) if self._company else None)
                window = self._order.window()
                if not window:
                    break
                try:
                    batch = self.worker.choose(window)
                except Exception as caught:
                    batch, error = window, caught
                if not batch:
                    self._stall()
            if batch:
                self._order.take(batch)
                self._count(batch)
                self.running += error is None
            if self._order:
                self._not_empty.notify()  # another lane may have slept since the queue was empty
            self._not_full.notify_all()
        return batch, error

    def release(self, batch: Sequence[R]) -> None:
        """Note that a batch that was taken has run: the next may need what it held."""
        with self._lock:
            self.running -= 1
            self.worker.release(batch)
            self._released.notify_all()

    def close(self, cancel: bool, cause: BaseException | None = None) -> None:
        """Take no more requests; with ``cancel`` also fail those that wait. Nothing in a forked process."""
        if self.is_elsewhere():
            return
        dropped: list[R] = []
        with self._lock:
            self.closed = True
            self.cause = self.cause or cause
            if cancel:
                dropped = self._order.clear()
                self._count(dropped)
            self._wake_all()
        self.fail(dropped)

    def abandon(self) -> None:
        """Close the queue of a batcher that nobody has any more. The garbage collector may call it, in any thread."""
        if self.is_elsewhere():
            return
        self.closed = True
        if self._lock.acquire(timeout=_LOCK_PATIENCE):
            self._wake_all()
            self._lock.release()
        # Else this thread is a lane inside the lock. It sees that the queue is closed, and wakes the others as it ends.

    def fail(self, requests: Sequence[R]) -> None:
        """Answer requests with the error that says why the runner is closed."""
        with contextlib.ExitStack() as stack:  # all are answered, whatever a callback raises in the main thread
            for request in reversed(requests):
                stack.callback(request.future.refuse, self.closed_error())

    def on_failure(self, callback: Callable[[BaseException], object]) -> None:
        """Call back, once, when a lane has died; now if one has. Raises RunnerClosedError in a forked process."""
        self.check_process()
        with self._lock:
            cause = self.cause
            if cause is None:
                self._told.append(callback)
        if cause is not None:
            callback(cause)

    def is_elsewhere(self) -> bool:
        """Whether this process is a fork of the one in which the lanes run."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Raise RunnerClosedError in a fork: there a thread that had the lock was not copied."""
        if self.is_elsewhere():
            raise in_another_process()

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

    def lane_dies(self, cause: BaseException, batch: Sequence[R]) -> None:
        """Close the queue, answer what a lane was about to run and what waits, and tell whoever asked to be told."""
        self.close(cancel=True, cause=cause)
        self.fail(batch)
        with self._lock:
            callbacks, self._told = self._told, []
        for callback in callbacks:
            try:
                callback(cause)
            except BaseException:
                logger.exception("a callback for the failure of a runner raised; it has no other effect")

    def lane_ends(self) -> None:
        """Note that a lane has nothing more to run."""
        with self._lock:
            self._ended_lanes += 1
            if self._ended_lanes == len(self.lanes):
                atexit.unregister(self.stop_at_exit)
            self._wake_all()

    def _pending(self) -> Pending:
        return Pending(len(self._order), self._tokens)

    def _admit(self, request: R, flow: Flow | None) -> None:
        request.queued = time.perf_counter()
        ticket = self._order.add(request, flow)
        request.future.wait_in(self, ticket)
        self._tokens += request.size
        if self._company is not None:
            self._company.add(request, self._order)
        if self._stalled and self._order.head() is request:
            self._released.notify_all()

    def _count(self, requests: Sequence[R]) -> None:
        """Note that requests do not wait any more."""
        self._tokens -= sum(request.size for request in requests)
        if self._company is not None:
            for request in requests:
                self._company.remove(request)

    def _fits(self, size: int) -> bool:
        return self.limits.admit(len(self._order), self._tokens, 1, size)

    def _wait_for_room(self, size: int) -> None:
        """Block until a request of this size may join, or the queue is closed.

        A lane runs the callbacks of futures. One that submits must not wait for the lanes.
        """
        if threading.current_thread() in self.lanes:
            return
        turn = object()
        self._blocked[turn] = size
        self._not_empty.notify()  # now that no others can come, a batch may be due
        try:
            for passed in itertools.count():
                may_go = self._next is None or self._next is turn
                if self.closed or (may_go and self._fits(size)):
                    break
                if may_go and passed >= _PASSED_OVER:
                    self._next = turn
                    self._not_empty.notify()
                self._not_full.wait()
        finally:
            del self._blocked[turn]
            if self._next is turn:
                self._next = None
                self._not_full.notify_all()

    def _due(self) -> bool:
        if not self._order:
            return False
        if self._company is None or self._company.is_due(self._order):
            return True
        # Where nobody who waits for room gets any, waiting longer brings no more company.
        blocked = self._blocked.values() if self._next is None else [self._blocked[self._next]]
        return bool(blocked) and not any(map(self._fits, blocked))

    def _stall(self) -> None:
        """Wait until the worker may choose: when a batch is released, or another request is at the head."""
        self._stalled += 1
        self._released.wait()
        self._stalled -= 1

    def _wake_all(self) -> None:
        for condition in (self._not_empty, self._not_full, self._released):
            condition.notify_all()
