"""The texts of a call on their way through the runner: all of them are answered, or the first error is raised."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy.typing as npt

from poprt.errors import PoprtError
from poprt.runtime.pack_runner import PackRunner
from poprt.runtime.request import RunFuture
from poprt.text.tokens import Tokens

Array = npt.NDArray[Any]


class Submission:
    """Texts that were handed to a runner.

    Args:
        tokens: the texts.
        buffers: for each of them output name -> the array that is filled.

    Attributes:
        done: is done when all are answered, with the error of the first one that failed. Until then the buffers
            belong to the runner.
    """

    def __init__(self, tokens: Sequence[Tokens], buffers: Sequence[Mapping[str, Array]]) -> None:
        self.tokens = tokens
        self.buffers = buffers
        self.done: Future[None] = Future()
        self._futures: list[RunFuture] = []
        self._left = len(tokens)
        self._counting = threading.Lock()

    def send(self, runner: PackRunner, inputs: Sequence[Mapping[str, Array]]) -> Submission:
        """Queue the texts, those of similar length side by side. Blocks while the queue is full.

        Raises:
            RunnerClosedError: the runner is closed; nothing of this is in its queue then.
        """
        order = sorted(range(len(inputs)), key=lambda index: len(self.tokens[index]), reverse=True)
        self.done.add_done_callback(self._drop_if_cancelled)
        if not order:
            self.done.set_result(None)
        try:
            for index in order:
                future = runner.execute_async(inputs[index], self.buffers[index])
                self._futures.append(future)
                future.add_done_callback(self._answered)
        except PoprtError:
            self.cancel()
            raise
        return self

    def cancel(self) -> None:
        """Take out of the queue what does not run yet. ``done`` is done once the rest was answered."""
        for future in reversed(self._futures):
            future.cancel()

    def wait(self) -> None:
        """Block until all are answered.

        Raises:
            PoprtError: the error of a text.
            CancelledError: it was cancelled.
        """
        self.done.result()

    def _answered(self, future: Future[None]) -> None:
        with self._counting:
            self._left -= 1
            last = not self._left
        if not last and not future.cancelled() and future.exception() is not None:
            self.cancel()  # nobody will ask for the others
        if last and not self.done.cancelled():
            self._finish()

    def _finish(self) -> None:
        errors = [future.exception() for future in self._futures if not future.cancelled()]
        error = next((error for error in errors if error is not None), None)
        if error is None and any(future.cancelled() for future in self._futures):
            error = CancelledError()
        if not self.done.set_running_or_notify_cancel():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)

    def _drop_if_cancelled(self, done: Future[None]) -> None:
        if done.cancelled():
            self.cancel()
