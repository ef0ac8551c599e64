"""The order in which waiting requests are taken: fair between flows (start-time fair queueing).

Virtual time is the start of the request at the head. A flow's first request starts at the virtual time of its arrival,
and each later one where the one before it ends: behind it by its tokens. Whoever starts first is taken first. So flows
that wait together get about as many tokens each, and a request alone, which starts now, is nearly at the head however
many of another flow wait.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Generic

from poprt.runtime.request import Flow, R

#: Parts of a token in which virtual time is counted. It is a whole number, which never gets too large to be exact.
_PARTS = 1 << 16
#: Places of requests that left are kept until there are this many more of them than of requests that wait.
_SPARE = 64


class FairOrder(Generic[R]):
    """The requests that wait, in their order. Adding one takes O(log n), as does taking one out. It has no lock.

    Args:
        window: how many of the first requests are looked at together.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        #: Ticket -> request, by arrival. A place whose ticket is not here is of a request that left.
        self._waiting: dict[int, R] = {}
        # Places are (start, ticket). The first ones are sorted. Of those behind them, the ones that came in order stand
        # in a row, and the others in a heap: a request that comes to the end, as most do, costs little.
        self._first: list[tuple[int, int]] = []
        self._row: deque[tuple[int, int]] = deque()
        self._heap: list[tuple[int, int]] = []
        self._tickets = itertools.count()
        self._now = 0
        self._flows = 0  # that have a request here

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._waiting

    def add(self, request: R, flow: Flow | None = None) -> int:
        """Add a request behind those of its flow; None: it is a flow of its own. Returns its ticket."""
        start = self._now
        if flow is None:
            self._flows += 1
        else:
            start = max(start, flow.end)
            flow.end = start + request.size * _PARTS
            self._flows += not flow.waiting
            flow.waiting += 1
        ticket = request.ticket = next(self._tickets)
        request.flow, request.start = flow, start
        self._waiting[ticket] = request
        place = (start, ticket)
        if self._first and place < self._first[-1]:
            self._put_first(place)
        elif not self._row or place > self._row[-1]:
            self._row.append(place)
        else:
            heappush(self._heap, place)
        return ticket

    def discard(self, ticket: int) -> R | None:
        """Take out a request that is not to be run and return it; None where it does not wait."""
        request = self._waiting.pop(ticket, None)
        if request is not None:
            self._leave(request)
            if self.places() > 2 * len(self._waiting) + _SPARE:
                self._tidy()
        return request

    def head(self) -> R:
        """Return the first request; there must be one."""
        first = self._first
        while first and first[0][1] not in self._waiting:
            del first[0]
        if not first:
            self._fill()
        return self._waiting[first[0][1]]

    def window(self) -> list[R]:
        """Return the first requests, up to the window's number, in order."""
        waiting = self._waiting
        self._first[:] = [place for place in self._first if place[1] in waiting]
        self._fill()
        return [waiting[ticket] for _, ticket in self._first[: self._window]]

    def take(self, batch: Sequence[R]) -> None:
        """Take out requests that are to be run now, the head among them. Virtual time goes on.

        It goes on, by their share of what was due, also where the heads stay at one time because ever more flows begin
        there: what waits behind them is not put off for ever.
        """
        now = max(self._now, self.head().start)
        due, flows = 0, self._flows
        for request in batch:
            if self._waiting.pop(request.ticket, None) is not None:
                self._leave(request)
                if request.start <= now:
                    due += request.size
        self._now = now + max(1, due * _PARTS // flows)

    def clear(self) -> list[R]:
        """Take out all requests and return them by arrival."""
        requests = list(self._waiting.values())
        for request in requests:
            self._leave(request)
        self._waiting.clear()
        self._first.clear()
        self._row.clear()
        self._heap.clear()
        return requests

    def places(self) -> int:
        """How many places are kept, those of requests that left among them."""
        return len(self._first) + len(self._row) + len(self._heap)

    def _leave(self, request: R) -> None:
        flow = request.flow
        if flow is None:
            self._flows -= 1
        else:
            flow.waiting -= 1
            self._flows -= not flow.waiting

    def _put_first(self, place: tuple[int, int]) -> None:
        first, window = self._first, self._window
        insort(first, place)
        if len(first) > 2 * window:
            for later in first[window:]:
                heappush(self._heap, later)
            del first[window:]

    def _fill(self) -> None:
        """Move places from behind to the first until these fill the window."""
        first, row, heap = self._first, self._row, self._heap
        while len(first) < self._window and (row or heap):
            place = heappop(heap) if heap and not (row and row[0] < heap[0]) else row.popleft()
            if place[1] in self._waiting:
                first.append(place)

    def _tidy(self) -> None:
        """Forget the places of requests that left."""
        waiting = self._waiting
        self._first[:] = [place for place in self._first if place[1] in waiting]
        self._row = deque(place for place in self._row if place[1] in waiting)
        self._heap[:] = [place for place in self._heap if place[1] in waiting]
        heapify(self._heap)
