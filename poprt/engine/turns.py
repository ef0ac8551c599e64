"""Sessions that share the cores: the runs of one at a time go on, with all threads, those of another when they end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets the runs of several sessions take turns, in the order in which they came.

    onnxruntime gives each session threads of its own. Two sessions that run at the same time have twice as many busy
    threads as there are cores, and each waits for the other's at the end of each operator.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._session: object = None
        self._runs = 0

    @contextmanager
    def of(self, session: object) -> Iterator[None]:
        """Wait until ``session`` may run. Runs of one session go on together, unless another came in between."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._session in (None, session))
            except BaseException:
                self._waiting.remove(ticket)
                self._changed.notify_all()
                raise
            self._waiting.popleft()
            self._session = session
            self._runs += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._runs -= 1
                if not self._runs:
                    self._session = None
                self._changed.notify_all()
