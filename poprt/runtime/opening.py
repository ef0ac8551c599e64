"""Open an engine on an executable: the one that is asked for, or the one that is the fastest here."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from poprt.engine.choice import announce_compute_type, engines_to_try, open_engine
from poprt.engine.lanes import Lanes, choose_lanes
from poprt.engine.protocol import OwnSession
from poprt.engine.turns import Turns
from poprt.errors import PoprtError
from poprt.executable import Executable
from poprt.runtime.engine_race import Pace, race

logger = logging.getLogger("poprt")

#: By how much another engine must be faster than the preferred one: noise alone should not choose it.
WORTHWHILE = 1.05


@dataclass(frozen=True)
class Opening:
    """How an engine is opened.

    Attributes:
        engine: one of ``poprt.engine.choice.CHOICES``; None takes what the executable was compiled for, and of several
            the fastest.
        lanes: runs that go on at the same time; None: a lane a core where the engine is a CPU's.
        any_size: whether the runner has use for several lanes; see ``choose_lanes``.
        threads, providers, custom_ops, spin_between_runs, turns: as for the engines' sessions.
        typical_lengths: what several engines are timed on; see ``race``.
    """

    engine: str | None = None
    lanes: int | None = None
    any_size: bool = True
    threads: int | None = None
    providers: Sequence[str] | None = None
    custom_ops: Sequence[str | os.PathLike[str]] = ()
    spin_between_runs: bool = True
    turns: Turns | None = None
    typical_lengths: Sequence[int] = ()


@dataclass(frozen=True)
class Opened:
    """An engine that is open.

    Attributes:
        executable: the graph of this engine alone.
        session: runs it.
        lanes: how many runs go on at the same time, and on how many threads.
    """

    executable: Executable
    session: OwnSession
    lanes: Lanes

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.executable.manifest.engine


@dataclass(frozen=True)
class Trial:
    """An engine that may run an executable.

    Attributes:
        pace: what it does in a second; None where it was not timed, being alone or refused.
        refusal: why it is not used; "" where it could be.
        chosen: whether it is the one.
    """

    engine: str
    pace: Pace | None = None
    refusal: str = ""
    chosen: bool = False


def open_executable(executable: Executable, how: Opening) -> Opened:
    """Open an engine on an executable of one model.

    Raises:
        PoprtError: the engine that is asked for is not there, or each refuses the executable.
    """
    opened, _ = try_engines(executable, how)
    announce_compute_type(opened.executable, opened.session)
    return opened


def try_engines(executable: Executable, how: Opening) -> tuple[Opened, list[Trial]]:
    """Open an engine, and tell what was seen of each that may run the executable; :func:`open_executable`."""
    engines = engines_to_try(executable.manifest, how.engine, how.providers)
    opens = functools.partial(_open, executable, how=how)
    if how.typical_lengths:
        _announce_lengths(executable, engines)
    if len(engines) == 1:
        return opens(engines[0]), [Trial(engines[0], chosen=True)]
    return _fastest(engines, opens, how.typical_lengths)


def _announce_lengths(executable: Executable, engines: Sequence[str]) -> None:
    """Say where lengths that are told have no effect."""
    packing = executable.manifest.packing
    if len(engines) == 1:
        logger.warning("typical_lengths has no effect: the engine is %s, and no other is tried", engines[0])
    elif packing is None or not packing.ragged:
        logger.warning("typical_lengths has no effect: every run of this executable is of the same size")


def _open(executable: Executable, engine: str, *, how: Opening) -> Opened:
    from poprt.engine.custom_ops import custom_ops as in_force

    lanes = choose_lanes(how.lanes, how.threads, how.providers, any_size=how.any_size)
    with in_force(how.custom_ops):
        session = open_engine(executable, engine, lanes, how.providers, how.spin_between_runs, how.turns)
    return Opened(executable.for_engine(engine), session, lanes)


def _fastest(
    engines: Sequence[str], opens: Callable[[str], Opened], typical_lengths: Sequence[int]
) -> tuple[Opened, list[Trial]]:
    """The first engine, or another that is faster by more than noise. All are open while they are timed."""
    there: dict[str, Opened] = {}
    refusals: dict[str, str] = {}

    def leave_out(engine: str, error: PoprtError) -> None:
        logger.warning("engine %s is left out: %s", engine, error)
        refusals[engine] = str(error)

    for engine in engines:
        try:
            there[engine] = opens(engine)
        except PoprtError as error:
            leave_out(engine, error)
    if not there:
        raise PoprtError(f"no engine runs this executable: {'; '.join(f'{n}: {r}' for n, r in refusals.items())}")
    racers = {engine: (one.executable, one.session, one.lanes.count) for engine, one in there.items()}
    paces = race(racers, leave_out, typical_lengths)
    best = next(iter(paces), next(iter(there)))
    for engine, pace in paces.items():
        if pace.a_second > WORTHWHILE * paces[best].a_second:
            best = engine
    told = ", ".join(f"{engine} {pace}" for engine, pace in paces.items())
    logger.info("engine %s is used (%s)", best, told or "none could be timed")
    return there[best], [Trial(name, paces.get(name), refusals.get(name, ""), name == best) for name in engines]
