"""How the cores are shared among runs of the engine that go on at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poprt.engine.cpu import usable_cores
from poprt.engine.providers import runs_on_cpu

#: Lanes that are made unasked. A request that comes alone runs in one lane, so it has the cores of one lane.
MOST_LANES = 4


@dataclass(frozen=True)
class Lanes:
    """Runs that go on at the same time, and the threads that each uses for one operator."""

    count: int
    threads: int


def share_cores(cores: int, lanes: int | None, threads: int | None, *, side_by_side: bool) -> Lanes:
    """Share the cores among lanes.

    Small operators do not gain from more threads, and after each operator the threads of a run wait for the slowest.
    Several runs side by side, each with fewer threads, have less of both.

    Args:
        cores: that may be used.
        lanes, threads: what the caller asks for; None leaves it open.
        side_by_side: whether several lanes serve this engine; if not, there is one unless asked for.
    """
    if lanes is None:
        lanes = min(MOST_LANES, max(1, cores // (threads or 1))) if side_by_side else 1
    return Lanes(lanes, max(1, cores // lanes) if threads is None else threads)


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
