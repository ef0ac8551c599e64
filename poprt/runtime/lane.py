"""A lane: a thread that takes batches from the queue, runs them, and answers futures."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Generic

from poprt.runtime.observation import Observing, PackObservation
from poprt.runtime.request import R
from poprt.runtime.request_queue import RequestQueue
from poprt.runtime.worker import Worker

logger = logging.getLogger("poprt")


def serve(queue: RequestQueue[R], number: int, observing: Observing | None) -> None:
    """Body of a lane. It holds the queue and its worker, never the runner."""
    running: list[R] = []
    try:
        while True:
            batch, error = queue.take()
            if not batch:
                break
            running = batch  # until it is known who was cancelled meanwhile
            running = [request for request in batch if request.future.begin()]
            if error is None:
                _run(queue, batch, running, number, observing)
            else:
                _answer(running, error)
            batch = running = []  # an idle lane keeps no arrays of answered requests alive
    except BaseException as error:
        logger.critical("a lane stopped", exc_info=True)
        queue.lane_dies(error, running)
    finally:
        queue.lane_ends()


class _Run(Generic[R]):
    """A batch in the engine: how long it took, and what went wrong first.

    Attributes:
        started: ``time.perf_counter()`` when it was made.
        engine_seconds: of all its runs.
        error: of the first run that failed: of the whole batch.
    """

    def __init__(self, worker: Worker[R]) -> None:
        self._worker = worker
        self.started = time.perf_counter()
        self.engine_seconds = 0.0
        self.error: BaseException | None = None

    def error_of(self, batch: Sequence[R]) -> Exception | None:
        """Run requests and return the error with which they failed."""
        if not batch:
            return None
        started = time.perf_counter()
        try:
            self.engine_seconds += self._worker.run(batch)
        except BaseException as error:
            self.engine_seconds += time.perf_counter() - started
            self.error = self.error or error
            if not isinstance(error, Exception):
                raise
            return error
        return None

    def halves(self, batch: Sequence[R]) -> None:
        """Run the parts of a batch of two or more that failed as a whole, and answer them."""
        middle = len(batch) // 2
        left, right = batch[:middle], batch[middle:]
        error = self.error_of(left)
        if error is None or len(left) == 1:
            _answer(left, error)
        else:
            self.halves(left)
        # After a sound left half the fault is in the right one: it is divided without being run as a whole.
        right_is_faulty = error is None and len(right) > 1
        error = None if right_is_faulty else self.error_of(right)
        if right_is_faulty or (error is not None and len(right) > 1):
            self.halves(right)
        else:
            _answer(right, error)


def _run(
    queue: RequestQueue[R], batch: Sequence[R], running: Sequence[R], lane: int, observing: Observing | None
) -> None:
    """Run those of a batch that are not cancelled, answer them, and tell whoever observes it."""
    run = _Run(queue.worker)
    for request in running:
        request.future.queue_seconds = run.started - request.queued
    try:
        _run_and_answer(queue, batch, running, run)
    finally:
        if observing is not None and running:
            observing.tell(_observation(run, running, lane))
        run.error = None  # its traceback has this very run


def _run_and_answer(queue: RequestQueue[R], batch: Sequence[R], running: Sequence[R], run: _Run[R]) -> None:
    """Run a batch. Where it fails, halves are run until what spoils it stands alone.

    One request may have spoilt the batch (an id outside the vocabulary). Its neighbours deserve answers, and soon. What
    the batch holds is released before they are told: the callback of a future may take its time.
    """
    error: Exception | None = None
    divided = False
    try:
        error = run.error_of(running)
        divided = error is not None and len(running) > 1
        if divided:
            logger.warning("a batch of %d failed, it is run in halves: %s", len(running), error)
            run.halves(running)
    finally:
        queue.release(batch)
    if not divided:
        _answer(running, error)


def _observation(run: _Run[R], requests: Sequence[R], lane: int) -> PackObservation:
    return PackObservation(
        started=run.started,
        engine_seconds=run.engine_seconds,
        queue_seconds=tuple(run.started - request.queued for request in requests),
        lengths=tuple(request.size for request in requests),
        lane=lane,
        error=run.error,
    )


def _answer(requests: Sequence[R], error: Exception | None = None) -> None:
    for request in requests:
        request.future.answer(error)
