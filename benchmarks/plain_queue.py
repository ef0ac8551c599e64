"""A plain batching queue: what a server without packing does. One dispatcher, fixed batches, padding."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future

from benchmarks.contenders import Engine, Padded, Result, Sample


class PlainQueue:
    """Takes up to ``rows`` requests that wait, pads them to [rows, columns], runs them, and answers.

    Args:
        engine: runs a padded batch.
        rows, columns: the fixed shape.
    """

    def __init__(self, engine: Engine, rows: int, columns: int) -> None:
        self._padded = Padded("batch", engine, rows, columns)
        self._waiting: queue.SimpleQueue[tuple[Sample, Future[Result]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="plain-queue", daemon=True)
        self._thread.start()

    def submit(self, sample: Sample) -> Future[Result]:
        """Queue a request."""
        future: Future[Result] = Future()
        self._waiting.put((sample, future))
        return future

    def close(self) -> None:
        """Answer what waits, and end the dispatcher. Nothing may be submitted afterwards."""
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (batch := self._take())[0]:
            requests, closing = batch
            try:
                results = self._padded.run([sample for sample, _ in requests])
            except Exception as error:
                for _, future in requests:
                    future.set_exception(error)
            else:
                for (_, future), result in zip(requests, results, strict=True):
                    future.set_result(result)
            if closing:
                return

    def _take(self) -> tuple[list[tuple[Sample, Future[Result]]], bool]:
        """Wait for a request; return it with those that wait behind it, and whether the queue was closed after them."""
        taken: list[tuple[Sample, Future[Result]]] = []
        item = self._waiting.get()
        while item is not None:
            taken.append(item)
            if len(taken) == self._padded.rows:
                return taken, False
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return taken, False
        return taken, True
