"""How the cores are shared among runs of the engine that go on at the same time."""

from __future__ import annotations

from dataclasses import dataclass

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
