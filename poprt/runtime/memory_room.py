"""The memory that packs which run at the same time share."""

from __future__ import annotations

import logging
import math

logger = logging.getLogger("poprt")


class MemoryRoom:
    """Counts the bytes of padded tensors of the packs that run. Whoever calls it holds the lock of the queue.

    Args:
        limit: bytes for all packs together; 0 for no limit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit or math.inf
        self._in_use = 0
        self._warned = False

    def left(self, need: int, length: int) -> float | None:
        """Bytes that a pack may take now with a sample of ``length`` tokens which by itself needs ``need``.

        None where it has to wait for others. A sample that is beyond the limit by itself runs when no other pack does.
        """
        if self._in_use and self._in_use + need > self._limit:
            return None
        if need > self._limit and not self._warned:
            self._warned = True
            logger.warning(
                "max_pack_bytes=%d: a sample of %d tokens needs about %d by itself; it and others like it run alone",
                self._limit,
                length,
                need,
            )
        return self._limit - self._in_use

    def take(self, need: int) -> None:
        """A pack of so many bytes begins."""
        self._in_use += need

    def give_back(self, need: int) -> None:
        """A pack of so many bytes has ended."""
        self._in_use -= need
