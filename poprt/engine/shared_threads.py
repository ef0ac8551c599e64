"""Runs of one session side by side: a run alone has all threads of the engine, several share them, a core each.

onnxruntime gives a session ``threads`` threads: the caller's own, and a pool of the others. Callers that run at the
same time all bring a thread of their own, so there are more threads than cores, and they wait for one another. Here
one of them at a time runs in its own thread; the others run in threads of the pool, which are then not free to help.
So there are never more busy threads than cores, and the weights are in memory once, in the layout that products want.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]

#: Seconds in which an idle thread of the pool takes up a run. After these it is in the queue of a busy one.
_PATIENCE = 0.005


class ThreadedSession(Protocol):
    """What is asked of onnxruntime's ``InferenceSession``."""

    def run(self, names: list[str], feeds: Mapping[str, Any], /) -> list[Any]:
        """Run in the caller's thread and the pool's free ones."""

    def run_async(self, names: list[str], feeds: Mapping[str, Any], callback: Any, user_data: object, /) -> object:
        """Run in a thread of the pool, which calls back."""


class _Place(enum.Enum):
    """Where a run goes: a thread of the pool that has no other run is at most busy with a part of the caller's."""

    CALLER = enum.auto()
    POOL = enum.auto()
    POOL_WITH_OTHERS = enum.auto()


class SharedThreads:
    """Runs a session for several callers at once.

    Args:
        session: of onnxruntime.
        threads: that it was made with.
    """

    def __init__(self, session: ThreadedSession, threads: int) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._pool = self._free_in_pool = threads - 1
        self._in_callers = 0

    def run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; may be called from several threads at the same time.

        Raises:
            onnxruntime's exceptions, those of ``InferenceSession.run``.
        """
        place = self._begin()
        if place is not _Place.CALLER:
            try:
                run = _PoolRun(self._session, names, feeds)
                if run.began(None if place is _Place.POOL else _PATIENCE):
                    return run.results()
            finally:
                self._end(in_pool=True)
            with self._lock:
                self._in_callers += 1
        try:
            results: list[Array] = self._session.run(names, feeds)
            return results
        finally:
            self._end(in_pool=False)

    def _begin(self) -> _Place:
        """Take a place; tell which."""
        with self._lock:
            if not self._in_callers or not self._free_in_pool:
                self._in_callers += 1
                return _Place.CALLER
            place = _Place.POOL if self._free_in_pool == self._pool else _Place.POOL_WITH_OTHERS
            self._free_in_pool -= 1
            return place

    def _end(self, in_pool: bool) -> None:
        with self._lock:
            if in_pool:
                self._free_in_pool += 1
            else:
                self._in_callers -= 1


class _PoolRun:
    """A run in a thread of the pool.

    The engine puts what it is asked to run later in the queue of a thread that it draws by lot. Where that thread is
    busy with another run, the new one waits for all of it, though other threads sleep. So the engine is not asked for
    the run itself but for an output without a name: it refuses that as soon as a thread takes it up, and calls back in
    that thread, which makes the run then, with the errors of any other. What no thread takes up soon is given up, and
    its caller runs it himself.
    """

    def __init__(self, session: ThreadedSession, names: list[str], feeds: Mapping[str, Array]) -> None:
        self._session, self._names, self._feeds = session, names, feeds
        self._begun = threading.Lock()  # whoever gets it decides: the thread of the pool begins, or the caller gives up
        self._taken_up, self._done = threading.Event(), threading.Event()
        self._results: list[Array] = []
        self._error: BaseException | None = None
        session.run_async([""], feeds, self._run, None)

    def _run(self, *_: object) -> None:
        """The engine's call, in a thread of the pool."""
        if not self._begun.acquire(blocking=False):
            return
        self._taken_up.set()
        try:
            self._results = self._session.run(self._names, self._feeds)
        except BaseException as error:  # nothing may leave a callback of the engine
            self._error = error
        self._done.set()

    def began(self, patience: float | None) -> bool:
        """Wait for a thread, for ``patience`` seconds if given; tell whether one makes the run. If not, none will."""
        try:
            self._taken_up.wait(patience)
        except BaseException:
            if not self._begun.acquire(blocking=False):
                _wait(self._done)
            raise
        return not self._begun.acquire(blocking=False)

    def results(self) -> list[Array]:
        """Wait for the run, and return its outputs or raise its error."""
        _wait(self._done)
        if self._error is not None:
            raise self._error
        return self._results


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
