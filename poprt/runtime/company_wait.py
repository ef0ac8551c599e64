"""When a batch is due where requests wait for others to share it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic

from poprt.runtime.fair_order import FairOrder
from poprt.runtime.request import R

#: Deadlines of requests that left are kept until there are this many more of them than of requests that wait.
_SPARE = 64


class CompanyWait(Generic[R]):
    """Says when a batch is due: when it is full, or a request has waited long enough.

    Args:
        timeout: seconds that a request may wait.
        enough: so many that wait are a batch in any case: it is chosen among no more, or no more may wait.
        is_full: tells whether so many requests of one kind, of this total size, fill a batch.
    """

    def __init__(self, timeout: float, enough: int, is_full: Callable[[int, int], bool]) -> None:
        self._timeout = timeout
        self._enough = enough
        self._is_full = is_full
        self._tallies: dict[Hashable, list[int]] = {}  # kind -> how many wait, and their size
        self._deadlines: deque[tuple[float, int]] = deque()  # with the ticket of each, by arrival

    def add(self, request: R, order: FairOrder[R]) -> None:
        """A request waits: ``order`` has it already."""
        self._deadlines.append((request.queued + self._timeout, request.ticket))
        if len(self._deadlines) > 2 * len(order) + _SPARE:
            self._deadlines = deque(entry for entry in self._deadlines if entry[1] in order)
        tally = self._tallies.setdefault(request.kind, [0, 0])
        tally[0] += 1
        tally[1] += request.size

    def remove(self, request: R) -> None:
        """A request waits no more."""
        tally = self._tallies[request.kind]
        tally[0] -= 1
        tally[1] -= request.size
        if not tally[0]:
            del self._tallies[request.kind]

    def is_due(self, order: FairOrder[R]) -> bool:
        """Tell whether a batch of what waits, which is something, is due."""
        return (
            len(order) >= self._enough
            or self._is_full(*self._tallies[order.head().kind])
            or self._first_deadline(order) <= time.perf_counter()
        )

    def patience(self, order: FairOrder[R]) -> float | None:
        """Seconds until a batch is due where nothing else comes; None where nothing waits."""
        return max(0.0, self._first_deadline(order) - time.perf_counter()) if order else None

    def _first_deadline(self, order: FairOrder[R]) -> float:
        """Of those that wait, of which there is one."""
        while self._deadlines[0][1] not in order:
            self._deadlines.popleft()
        return self._deadlines[0][0]
