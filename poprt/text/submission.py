"""The texts of a call on their way through the runner: all of them are answered, or the first error is raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy.typing as npt

from poprt.errors import InputError
from poprt.runtime.pack_runner import PackRunner
from poprt.runtime.request import Flow, RunFuture
from poprt.text.tokens import Tokens

Array = npt.NDArray[Any]
#: Inputs and outputs of a request.
Sample = tuple[Mapping[str, Array], Mapping[str, Array]]


class Submission:
    """Texts that were handed to a runner.

    Args:
        tokens: the texts.
        buffers: for each of them output name -> the array that is filled.

    Attributes:
        done: is done when all are answered, with the error of the first one that failed. Until then the buffers
            belong to the runner.
        sent: when the first was handed to the runner, in seconds of ``time.perf_counter``; 0 until then.
    """

    def __init__(self, tokens: Sequence[Tokens], buffers: Sequence[Mapping[str, Array]]) -> None:
        self.tokens = tokens
        self.buffers = buffers
        self.done: Future[None] = Future()
        self.sent = 0.0
        self._futures: list[RunFuture] = []
        self._left = len(tokens)
        self._dropped = False
        self._counting = threading.RLock()  # the garbage collector may end a forgotten call, and cancel, at any point

    def send(
        self,
        runner: PackRunner,
        inputs: Sequence[Mapping[str, Array]],
        *,
        first: int = 0,
        block: bool = True,
        flow: Flow | None = None,
    ) -> Submission:
        """Queue the texts, those of similar length side by side, as one flow.

        Args:
            runner: what runs them.
            inputs: of each text.
            first: the number of the first text in messages.
            block: wait while the queue is full. Else all texts are queued or none, at once.
            flow: where they block, the flow that they are part of; None: a new one.

        Raises:
            RunnerClosedError: the runner is closed; nothing of this is in its queue then.
            QueueFullError: without ``block``: the queue has no room for all of them.
            InputError: without ``block``: a text is not one that the executable takes. Else ``done`` has that error.
        """
        order = sorted(range(len(inputs)), key=lambda index: len(self.tokens[index]), reverse=True)
        samples = [(inputs[index], self.buffers[index]) for index in order]
        self.done.add_done_callback(self._drop_if_cancelled)
        self.sent = time.perf_counter()
        if not order:
            self.done.set_result(None)
        elif block:
            self._send_each(runner, samples, flow or Flow())
        else:
            self._send_all(runner, samples, [first + index for index in order])
        return self

    def cancel(self) -> None:
        """Take out of the queue what does not run yet. ``done`` is done once the rest was answered."""
        with self._counting:
            if self._dropped:
                return
            self._dropped = True
            futures = self._futures[::-1]
        for future in futures:
            future.cancel()

    @property
    def queue_seconds(self) -> float:
        """How long the last text to run waited for its run."""
        return max((future.queue_seconds for future in self._futures), default=0.0)

    def wait(self) -> None:
        """Block until all are answered.

        Raises:
            PoprtError: the error of a text.
            CancelledError: it was cancelled.
        """
        self.done.result()

    def _send_all(self, runner: PackRunner, samples: Sequence[Sample], numbers: Sequence[int]) -> None:
        try:
            futures = runner.submit(samples)
        except InputError as error:
            if error.sample is None:
                raise
            raise type(error)(f"text {numbers[error.sample]}: {error.__cause__}") from None
        with self._counting:
            self._futures = futures
        for future in futures:
            future.add_done_callback(self._answered)

    def _send_each(self, runner: PackRunner, samples: Sequence[Sample], flow: Flow) -> None:
        """Queue one after the other, until one has failed."""
        try:
            for sample in samples:
                if self._dropped:
                    break
                self._add(runner.execute_async(*sample, flow))
        except BaseException:  # KeyboardInterrupt of the main thread, that blocks here, among them
            self.cancel()
            raise
        self._count_down(len(samples) - len(self._futures))

    def _add(self, future: RunFuture) -> None:
        with self._counting:
            self._futures.append(future)
            dropped = self._dropped
        future.add_done_callback(self._answered)
        if dropped:  # meanwhile, when this one was not among the others
            future.cancel()

    def _answered(self, future: Future[None]) -> None:
        if not future.cancelled() and future.exception() is not None:
            self.cancel()  # nobody will ask for the others
        self._count_down(1)

    def _count_down(self, count: int) -> None:
        with self._counting:
            self._left -= count
            last = count and not self._left
        if last:
            self._finish()

    def _finish(self) -> None:
        errors = [future.exception() for future in self._futures if not future.cancelled()]
        error = next((error for error in errors if error is not None), None)
        complete = len(self._futures) == len(self.tokens) and not any(future.cancelled() for future in self._futures)
        if error is None and not complete:
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
