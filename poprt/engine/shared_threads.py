"""Runs of one session side by side: a run alone has all threads of the engine, several share them, a core each.

onnxruntime gives a session ``threads`` threads: the caller's own, and a pool of the others. Callers that run at the
same time all bring a thread of their own, so there are more threads than cores, and they wait for one another. Here
one of them at a time runs in its own thread; the others run in threads of the pool, which are then not free to help.
So there are never more busy threads than cores, and the weights are in memory once, in the layout that products want.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]


class SharedThreads:
    """Runs a session for several callers at once.

    Args:
        session: of onnxruntime.
        threads: that it was made with.
    """

    def __init__(self, session: ort.InferenceSession, threads: int) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._free_in_pool = threads - 1
        self._in_callers = 0

    def run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; may be called from several threads at the same time.

        Raises:
            onnxruntime's exceptions, those of ``InferenceSession.run``.
        """
        in_pool = self._begin()
        try:
            results = self._run_in_pool(names, feeds) if in_pool else None
            return self._session.run(names, feeds) if results is None else results
        finally:
            self._end(in_pool)

    def _begin(self) -> bool:
        """Take a place; tell whether it is one in the pool."""
        with self._lock:
            in_pool = self._in_callers > 0 and self._free_in_pool > 0
            if in_pool:
                self._free_in_pool -= 1
            else:
                self._in_callers += 1
            return in_pool

    def _end(self, in_pool: bool) -> None:
        with self._lock:
            if in_pool:
                self._free_in_pool += 1
            else:
                self._in_callers -= 1

    def _run_in_pool(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array] | None:
        """Run in a thread of the pool and wait; None where that failed, for it tells only a text of the error."""
        done = threading.Event()
        answer: list[tuple[list[Array], str]] = []

        def finish(results: list[Array], _: object, error: str) -> None:
            answer.append((results, error))
            done.set()

        self._session.run_async(names, feeds, finish, None)
        _wait(done)
        results, error = answer.pop()
        return None if error else results


def _wait(done: threading.Event) -> None:
    """Wait, through interrupts too: the engine still reads the caller's arrays."""
    interrupt: BaseException | None = None
    while not done.is_set():
        try:
            done.wait()
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
