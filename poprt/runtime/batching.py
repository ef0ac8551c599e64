"""Lanes: threads that take batches from one queue, run them, and answer futures.

A batch is sent as soon as a lane is free (or, with ``send_when_idle`` off, when it is full or its oldest request has
waited its timeout). While the lanes run, later requests gather and share the next batch. It is chosen when a lane
becomes free, no earlier, so it takes the latest arrivals into account; and it always holds the oldest request.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Sequence
from typing import Generic

from poprt.errors import PoprtError
from poprt.runtime.request import Request, RunFuture
from poprt.runtime.request_queue import R, RequestQueue, Worker

__all__ = ["Batcher", "Request", "RunFuture", "Worker"]

logger = logging.getLogger("poprt")


class Batcher(Generic[R]):
    """A bounded queue in front of a worker.

    Args:
        worker: chooses and runs batches.
        timeout: seconds that a request may wait for company when ``send_when_idle`` is off.
        send_when_idle: send what is there whenever a lane is free.
        limit: requests that may wait; ``submit`` blocks while there are so many.
        window: among how many of the oldest requests a batch is chosen. A request is overtaken only by those.
        lanes: batches that run at the same time, each in a thread.
    """

    def __init__(
        self,
        worker: Worker[R],
        *,
        timeout: float = 0.0,
        send_when_idle: bool = True,
        limit: int = 4096,
        window: int = 128,
        lanes: int = 1,
    ) -> None:
        queue = self._queue = RequestQueue(worker, timeout, send_when_idle, limit, window)
        names = [f"poprt-lane-{number}" for number in range(lanes)]
        queue.lanes += [threading.Thread(target=_serve, args=(queue,), name=name, daemon=True) for name in names]
        # A batcher that is dropped without close() answers what is pending, then its threads end.
        weakref.finalize(self, queue.close, False).atexit = False
        atexit.register(queue.stop_at_exit)
        for lane in queue.lanes:
            lane.start()

    def submit(self, request: R) -> RunFuture:
        """Queue a request; block while the queue is full.

        Raises:
            RunnerClosedError: the batcher is closed or a lane died.
        """
        self._queue.put(request)
        return request.future

    def check_may_wait(self) -> None:
        """Raise PoprtError in a lane's own thread, where waiting for an answer may never end."""
        if threading.current_thread() in self._queue.lanes:
            raise PoprtError(
                "execute() was called from a future's callback, where it would wait for itself: use execute_async()"
            )

    def pending(self) -> int:
        """Return how many requests wait."""
        return len(self._queue.waiting)

    def close(self, cancel: bool = False) -> None:
        """Take no more requests and end the threads. Those that wait are answered, or with ``cancel`` failed."""
        self._queue.close(cancel)
        if threading.current_thread() not in self._queue.lanes and not self._queue.is_elsewhere():
            for lane in self._queue.lanes:
                lane.join()


def _serve(queue: RequestQueue[R]) -> None:
    """Body of a lane. It holds the queue and its worker, never the runner."""
    batch: list[R] = []
    try:
        while True:
            batch, error = queue.take()
            if not batch:
                break
            running = [request for request in batch if request.future.begin()]
            if error is None:
                _run(queue, batch, running)
            else:
                _answer(running, error)
            batch = running = []  # an idle lane keeps no arrays of answered requests alive
    except BaseException as error:
        logger.critical("a lane stopped", exc_info=True)
        queue.close(cancel=True, cause=error)
        queue.fail(batch)
    finally:
        queue.lane_ends()


def _answer(requests: Sequence[R], error: Exception | None = None) -> None:
    for request in requests:
        request.future.answer(error)


def _run(queue: RequestQueue[R], batch: Sequence[R], running: Sequence[R]) -> None:
    """Run those of a batch that are not cancelled. Where it fails, halves are run until what spoils it stands alone.

    One request may have spoilt the batch (an id outside the vocabulary). Its neighbours deserve answers, and soon. What
    the batch holds is released before they are told: the callback of a future may take its time.
    """
    error = _error_of(queue.worker, running)
    if error is None or len(running) <= 1:
        queue.release(batch)
        _answer(running, error)
        return
    logger.warning("a batch of %d failed, it is run in halves: %s", len(running), error)
    _run_halves(queue.worker, running)
    queue.release(batch)


def _run_halves(worker: Worker[R], batch: Sequence[R]) -> None:
    """Run the parts of a batch of two or more that failed as a whole."""
    middle = len(batch) // 2
    left, right = batch[:middle], batch[middle:]
    error = _error_of(worker, left)
    if error is None or len(left) == 1:
        _answer(left, error)
    else:
        _run_halves(worker, left)
    # After a sound left half the fault is in the right one: it is divided without being run as a whole.
    right_is_faulty = error is None and len(right) > 1
    error = None if right_is_faulty else _error_of(worker, right)
    if right_is_faulty or (error is not None and len(right) > 1):
        _run_halves(worker, right)
    else:
        _answer(right, error)


def _error_of(worker: Worker[R], batch: Sequence[R]) -> Exception | None:
    """Run a batch and return the error with which it failed."""
    try:
        if batch:
            worker.run(batch)
    except Exception as error:
        return error
    return None
