"""The memory that packs which run at the same time share."""

from __future__ import annotations

import logging
import math

from poprt.executable import PackingSpec

logger = logging.getLogger("poprt")


class MemoryRoom:
    """Counts the bytes of padded tensors of the packs that run. Whoever calls it holds the lock of the queue.

    Args:
        limit: bytes for all packs together; 0 for no limit.
        packing: says how many bytes a pack needs.
    """

    def __init__(self, limit: int, packing: PackingSpec) -> None:
        self._limit = limit or math.inf
        self._packing = packing
        self._in_use = 0
        self._warned = False

    def left(self, length: int) -> float | None:
        """Bytes that a pack with a sample of ``length`` tokens may take now; None where it has to wait for others.

        A sample that is beyond the limit by itself runs when no other pack does.
        """
        need = self._packing.padded_bytes(1, length)
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

    def take(self, padded: tuple[int, int]) -> None:
        """A pack of (samples, longest) begins."""
        self._in_use += self._packing.padded_bytes(*padded)

    def give_back(self, padded: tuple[int, int]) -> None:
        """A pack of (samples, longest) has ended."""
        self._in_use -= self._packing.padded_bytes(*padded)
