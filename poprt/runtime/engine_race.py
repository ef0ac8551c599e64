"""Engines timed against each other on the same work, in turn, so that what slows the machine slows them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from poprt.engine.protocol import Session
from poprt.errors import PoprtError
from poprt.executable import Executable, PackingSpec, TensorSpec
from poprt.runtime.across_rows_session import AcrossRowsSession
from poprt.runtime.budget import pack_timer
from poprt.runtime.buffers import Array

#: Seconds that the race takes, about.
PATIENCE = 2.0
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 8
#: Seconds before each turn: onnxruntime's threads keep the cores busy for some 50 ms after a run, whoever runs next.
_REST = 0.1
#: Samples of the packs that are timed where nobody says how long samples are: queries, and passages.
_PACKS = (tuple(range(4, 28)), (96, 160, 112, 144))
#: Where somebody does: tokens of a pack at most, and of all packs together.
_PACK_TOKENS, _TOKENS = 512, 1024
#: An open extent of a model that is not packed.
_EXTENT = 8


@dataclass(frozen=True)
class Pace:
    """What an engine does in a second.

    Attributes:
        a_second: tokens of packs, or runs of a model of fixed shape.
        unit: "tokens/s" or "runs/s".
    """

    a_second: float
    unit: str

    def __str__(self) -> str:
        return f"{self.a_second:,.{0 if self.a_second >= 100 else 1}f} {self.unit}"


@dataclass(frozen=True)
class _Work:
    """What an engine is timed on.

    Attributes:
        seconds: runs it once on each lane, and tells how long that took.
        amount: what that is, in ``unit``.
    """

    seconds: Callable[[], float]
    amount: float
    unit: str


def race(
    engines: Mapping[str, tuple[Executable, Session, int]],
    left_out: Callable[[str, PoprtError], None],
    typical_lengths: Sequence[int] = (),
) -> dict[str, Pace]:
    """Time engines in turn, each several times; the fastest time of each counts.

    Args:
        engines: by name, an executable of one graph, a session over it, and how many runs go on at the same time.
        left_out: is told of an engine that fails, and why.
        typical_lengths: tokens of samples as they come in use; none take queries and passages alike.

    Returns:
        The pace of each engine that ran, in their order.
    """
    works, least = {}, {}
    for name, (executable, session, lanes) in engines.items():
        work = _work(executable, session, lanes, typical_lengths)
        try:
            work.seconds()  # the first run allocates
        except PoprtError as error:
            left_out(name, error)
            continue
        works[name], least[name] = work, float("inf")
    started = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() - started > PATIENCE:
            break
        for name, work in works.items():
            time.sleep(_REST)
            least[name] = min(least[name], work.seconds(), work.seconds())
    return {name: Pace(work.amount / max(least[name], 1e-9), work.unit) for name, work in works.items()}


def typical_packs(lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Packs as a runner makes them of samples of these lengths: those of similar length go together.

    The lengths are thinned out evenly, so that the packs have about ``_TOKENS`` tokens::

        16 samples of 300 tokens and 16 of 20 -> (20, 20, 20, 300), (300,), (300,)
    """
    count = min(len(lengths), max(2, round(_TOKENS * len(lengths) / sum(lengths))))
    ordered = sorted(lengths)
    packs: list[tuple[int, ...]] = []
    for number in range(count):
        length = ordered[(2 * number + 1) * len(ordered) // (2 * count)]
        if packs and sum(packs[-1]) + length <= _PACK_TOKENS:
            packs[-1] += (length,)
        else:
            packs.append((length,))
    return packs


def _work(executable: Executable, session: Session, lanes: int, lengths: Sequence[int]) -> _Work:
    packing = executable.manifest.packing
    if packing is not None and packing.ragged:
        return _packs(executable, packing, session, lanes, typical_packs(lengths) if lengths else _PACKS)
    feeds = {spec.name: _fill(spec) for spec in executable.inputs}

    def run() -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(lanes) as pool:
            for each in [pool.submit(session.run, feeds) for _ in range(lanes)]:
                each.result()
        return time.perf_counter() - begin

    return _Work(run, lanes, "runs/s")


def _packs(
    executable: Executable, packing: PackingSpec, session: Session, lanes: int, wished: Sequence[tuple[int, ...]]
) -> _Work:
    """Packs of samples of these lengths, as far as the executable takes them."""
    timer = pack_timer(AcrossRowsSession(session, executable.manifest, packing), executable.manifest, packing, lanes)
    longest, capacity = packing.segment_max_size[0], packing.rows * packing.columns
    most = packing.max_valid_num if packing.neighbours != "none" else 1
    packs = []
    for lengths in wished:
        if packing.neighbours != "any":  # such packs are of one length
            lengths = (sum(lengths) // len(lengths),) * len(lengths)
        fitting = [min(packing.tokens(length), longest, capacity) for length in lengths]
        count = max(1, min(len(fitting), most, capacity // max(fitting)))
        packs.append(tuple(fitting[:count]))
    tokens = lanes * sum(map(sum, packs))
    return _Work(lambda: sum(map(timer, packs)), tokens, "tokens/s")


def _fill(spec: TensorSpec) -> Array:
    """Ones, which are rows of every table and masks of nothing."""
    return np.ones([extent or _EXTENT for extent in spec.shape], spec.engine_dtype)
