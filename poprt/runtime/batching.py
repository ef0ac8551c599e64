"""A bounded queue with lanes behind it: threads that take batches, run them, and answer futures.

A batch is sent as soon as a lane is free (or, with ``send_when_idle`` off, when it is full or a request has waited its
timeout). While the lanes run, later requests gather and share the next batch. It is chosen when a lane becomes free, no
earlier, so it takes the latest arrivals into account; and it always holds the request at the head of the fair order.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Generic

from poprt.errors import PoprtError
from poprt.runtime.admission import Pending, QueueLimits
from poprt.runtime.company_wait import CompanyWait
from poprt.runtime.lane import serve
from poprt.runtime.observation import Observer, Observing
from poprt.runtime.request import Flow, R, Request, RunFuture
from poprt.runtime.request_queue import RequestQueue
from poprt.runtime.worker import Worker

__all__ = ["Batcher", "Flow", "Pending", "Request", "RunFuture", "Worker"]


class Batcher(Generic[R]):
    """A bounded queue in front of a worker.

    Args:
        worker: chooses and runs batches.
        timeout: seconds that a request may wait for company when ``send_when_idle`` is off.
        send_when_idle: send what is there whenever a lane is free.
        limit: requests that may wait; ``submit`` blocks while there are so many.
        token_limit: tokens that may wait, likewise; None for no limit.
        unit: what tokens are called in messages.
        window: among how many of the first requests a batch is chosen. A request is overtaken only by those.
        lanes: batches that run at the same time, each in a thread.
        observer: is told of each batch that has run, in its lane's thread, when the answers are out.
    """

    def __init__(
        self,
        worker: Worker[R],
        *,
        timeout: float = 0.0,
        send_when_idle: bool = True,
        limit: int = 4096,
        token_limit: int | None = None,
        unit: str = "tokens",
        window: int = 128,
        lanes: int = 1,
        observer: Observer | None = None,
    ) -> None:
        company: CompanyWait[R] | None = None
        if not send_when_idle:
            company = CompanyWait(timeout, min(window, limit), worker.is_full)
        queue = self._queue = RequestQueue(worker, QueueLimits(limit, token_limit, unit), window, company)
        observing = None if observer is None else Observing(observer)
        queue.lanes += [
            threading.Thread(target=serve, args=(queue, number, observing), name=f"poprt-lane-{number}", daemon=True)
            for number in range(lanes)
        ]
        # A batcher that is dropped without close() answers what is pending, then its threads end.
        weakref.finalize(self, queue.abandon).atexit = False
        atexit.register(queue.stop_at_exit)
        for lane in queue.lanes:
            lane.start()

    def submit(self, request: R, flow: Flow | None = None) -> RunFuture:
        """Queue a request; block while the queue is full.

        Args:
            request: what is to be run.
            flow: the requests with which it takes turns as one; None: it is alone.

        Raises:
            RunnerClosedError: the batcher is closed or a lane died.
        """
        self._queue.put(request, flow)
        return request.future

    def submit_all(self, requests: Sequence[R]) -> list[RunFuture]:
        """Queue requests as one flow, all of them or none. Never blocks.

        Raises:
            QueueFullError: they do not fit.
            RunnerClosedError: the batcher is closed or a lane died.
        """
        self._queue.put_all(requests)
        return [request.future for request in requests]

    def check_may_wait(self) -> None:
        """Raise PoprtError in a lane's own thread, where waiting for an answer may never end."""
        if threading.current_thread() in self._queue.lanes:
            raise PoprtError(
                "execute() was called from a future's callback, where it would wait for itself: use execute_async()"
            )

    def pending(self) -> Pending:
        """Return how many requests and tokens wait; raise RunnerClosedError in a forked process."""
        return self._queue.pending()

    def running(self) -> int:
        """Return how many batches are run now; raise RunnerClosedError in a forked process."""
        self._queue.check_process()
        return self._queue.running

    @property
    def failure(self) -> BaseException | None:
        """Why a lane died; None where none did."""
        return self._queue.cause

    def on_failure(self, callback: Callable[[BaseException], object]) -> None:
        """Call back, once, when a lane has died; at once if one has. Raises RunnerClosedError in a forked process."""
        self._queue.on_failure(callback)

    def close(self, cancel: bool = False) -> None:
        """Take no more requests and end the threads. Those that wait are answered, or with ``cancel`` failed."""
        self._queue.close(cancel)
        if threading.current_thread() not in self._queue.lanes and not self._queue.is_elsewhere():
            for lane in self._queue.lanes:
                lane.join()
