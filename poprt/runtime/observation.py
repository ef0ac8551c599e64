"""What an observer is told of each pack."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger("poprt")


@dataclass(frozen=True)
class PackObservation:
    """A pack that has run. Of a model runner: a batch, with rows in the place of tokens.

    Attributes:
        started: ``time.perf_counter()`` when a lane began to run it.
        engine_seconds: spent in the engine, as ``PackStats`` counts them. A run that failed counts from begin to end.
        queue_seconds: for each sample, how long it was in the queue.
        lengths: tokens of each sample, in the same order.
        lane: number of the lane that ran it, from 0.
        error: with which the whole pack failed; None where it ran. Of several samples halves were then run, so that
            most of them may have their answers all the same.
    """

    started: float
    engine_seconds: float
    queue_seconds: tuple[float, ...]
    lengths: tuple[int, ...]
    lane: int
    error: BaseException | None = None

    @property
    def samples(self) -> int:
        """How many shared the run."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all samples."""
        return sum(self.lengths)

    @property
    def padded_tokens(self) -> int:
        """Tokens that the pack would have, were each sample padded to its longest."""
        return len(self.lengths) * max(self.lengths)


Observer = Callable[[PackObservation], None]


class Observing:
    """Calls an observer. What it raises is logged the first time, and has no other effect."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._logged = threading.Lock()  # taken by the first one that logs, and kept

    def tell(self, observation: PackObservation) -> None:
        """Call the observer; it is called from the lanes, by several at once."""
        try:
            self._observer(observation)
        except BaseException:  # of a lane's thread, which nobody interrupts: it is the observer's own
            if self._logged.acquire(blocking=False):
                logger.exception("an observer raised; that has no effect on the runner, and is logged once")
