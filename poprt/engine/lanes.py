"""How the cores are shared among runs of the engine that go on at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poprt.engine.cpu import usable_cores
from poprt.engine.providers import runs_on_cpu

#: Lanes that are made unasked, at most. Each has a Python thread, and what its runs allocate.
MOST_LANES = 16


@dataclass(frozen=True)
class Lanes:
    """Runs that go on at the same time, and the threads of the engine that they share.

    A run alone has all of the threads (:mod:`poprt.engine.shared_threads`).
    """

    count: int
    threads: int


def share_cores(cores: int, lanes: int | None, threads: int | None, *, side_by_side: bool) -> Lanes:
    """Share the cores among lanes: a lane a core, for several runs side by side wait less than one on all cores.

    After each operator the threads of a run wait for the slowest, and small operators do not gain from more threads.

    Args:
        cores: that may be used.
        lanes, threads: what the caller asks for; None leaves it open. With one thread every run has a core of its own.
        side_by_side: whether several lanes serve this engine; if not, there is one unless asked for.
    """
    pool = cores if threads is None else threads
    if lanes is None:
        lanes = min(MOST_LANES, pool if pool > 1 else cores) if side_by_side else 1
    return Lanes(lanes, pool)


def choose_lanes(
    lanes: int | None = None,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    *,
    any_size: bool = True,
) -> Lanes:
    """The lanes of a runner on this machine.

    Args:
        lanes, threads, providers: what the caller asks for; None leaves it open.
        any_size: whether the graph takes any number of tokens. One of fixed shape costs a lone request the whole of a
            pack, and a GPU does one run after the other: neither gains from runs side by side.
    """
    return share_cores(usable_cores(), lanes, threads, side_by_side=any_size and runs_on_cpu(providers))
