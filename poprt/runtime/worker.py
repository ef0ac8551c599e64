"""What a batcher needs to know of its runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from poprt.runtime.request import R


class Worker(Protocol[R]):
    """Chooses batches and runs them. It must not hold the runner itself, so that a runner can be freed."""

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether this many waiting requests of one kind, of this total size, fill a batch."""

    def choose(self, window: Sequence[R]) -> list[R]:
        """Choose the next batch among waiting requests, in their order; the first is in it.

        Empty to wait until a batch that runs is released.
        """

    def release(self, batch: Sequence[R]) -> None:
        """A batch that was chosen has run. Called like ``choose``, by one thread at a time."""

    def run(self, batch: Sequence[R]) -> float:
        """Run a batch and fill the output arrays of its requests. Called by several lanes at once.

        Returns:
            Seconds spent in the engine.
        """
