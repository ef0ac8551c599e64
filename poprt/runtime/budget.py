"""What packs cost on this machine, and how many tokens one should aim at: found by running a few of ones and zeros."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from poprt.executable import Manifest, PackingSpec, TensorSpec
from poprt.runtime.across_rows_session import AcrossRowsSession
from poprt.runtime.buffers import Array
from poprt.runtime.pack_cost import PackCost, fit_cost

logger = logging.getLogger("poprt")

#: Pack sizes to try, in tokens. Below, the engine's matrix products are too small; above, activations leave the caches.
CANDIDATES = (256, 512, 1024, 2048)
#: A larger pack must be faster by this factor to be worth its longer wait.
WORTHWHILE = 1.03
#: Seconds that measuring takes, about: what would take it beyond is not tried.
PATIENCE = 1.5
_SAMPLE_LENGTH = 64
#: Packs that tell the parts of the cost apart, fewest tokens first: a lone short sample, many places that are padding,
#: many pairs, and pairs of a full pack.
_SHORT, _PADDED, _PAIRS, _FULL = (8,), (32, *[1] * 15), (256, 1, 1, 1), (256,)
#: Times that a pack is timed, at least and at most, if there is time: a machine that stalls slows a run, never speeds
#: it up. More than the least where the fastest two differ by more than ``_AGREEMENT``.
_LEAST_TIMES, _MOST_TIMES = 2, 4
_AGREEMENT = 1.15

#: Seconds of a run that a coarse clock does not see.
_LEAST_SECONDS = 1e-7

#: Runs a pack of samples of these lengths and tells the seconds.
Timer = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class PackPlan:
    """What a runner of packs needs to know of the machine.

    Attributes:
        budget: tokens that a pack aims at.
        cost: seconds of a pack.
    """

    budget: int
    cost: PackCost


def plan_packs(time_pack: Timer, packing: PackingSpec, max_count: int, budget: int | None) -> PackPlan:
    """Find the smallest pack size, in tokens, that is about as fast a token as the fastest; and what packs cost.

    Runs the engine for about ``PATIENCE`` seconds. Sizes beyond the executable's capacity are not tried.

    Args:
        time_pack: runs a pack.
        packing: the executable's.
        max_count: most samples in a pack.
        budget: tokens that a pack aims at, where the caller says so; None finds out.
    """
    capacity = packing.rows * packing.columns
    longest = min(packing.segment_max_size[0], capacity)
    length = min(packing.tokens(_SAMPLE_LENGTH), longest)
    _, stride, _ = packing.subsampling  # what is tried counts places of the encoder
    candidates = [size * stride for size in CANDIDATES]
    sizes = [size for size in candidates if size <= min(capacity, max_count * length)] or [min(capacity, candidates[0])]
    packs = [(length,) * max(1, size // length) for size in sizes]
    probes = [
        tuple(min(packing.tokens(part), longest) for part in probe[:max_count])
        for probe in (_SHORT, _PADDED, _PAIRS, _FULL)
    ]
    if not packing.equal_lengths_cheaper:
        probes.pop()
    timing = _Timing(time_pack, packing.equal_lengths_cheaper)
    timing.time(list(dict.fromkeys([*probes[:2], packs[0], *probes[2:]])))
    best, rate = sizes[0], 0.0
    for size, pack in zip(sizes, packs, strict=True):
        if (budget is not None and size > sizes[0]) or not timing.time([pack]):
            break
        if size / timing.seconds[pack] > rate * WORTHWHILE:
            best, rate = size, size / timing.seconds[pack]
    plan = PackPlan(best if budget is None else budget, timing.cost())
    logger.debug("token budget %d: %.0f tokens/s; %s", plan.budget, rate, plan.cost)
    return plan


class _Timing:
    """Times packs while there is patience.

    Attributes:
        seconds: of each pack that was timed, the least.
    """

    def __init__(self, time_pack: Timer, full_packs: bool) -> None:
        self._time_pack = time_pack
        self._full_packs = full_packs
        self._runs: dict[tuple[int, ...], list[float]] = {}
        self._spent = 0.0
        self._warm = False

    @property
    def seconds(self) -> dict[tuple[int, ...], float]:
        return {pack: min(runs) for pack, runs in self._runs.items()}

    def cost(self) -> PackCost:
        """The cost by what was timed so far."""
        return fit_cost(list(self.seconds), list(self.seconds.values()), self._full_packs)

    def time(self, packs: Sequence[tuple[int, ...]]) -> bool:
        """Time packs in turn, each again until two of its runs agree: what slows one round leaves another alone.

        Returns:
            Whether each of them was timed; what would take too long is not.
        """
        for number in range(_MOST_TIMES):
            for pack in packs:
                if self._unsure(pack, number) and self._is_short(pack):
                    self._run(pack)
        return all(pack in self._runs for pack in packs)

    def _unsure(self, pack: tuple[int, ...], number: int) -> bool:
        runs = sorted(self._runs.get(pack, []))
        return len(runs) <= number and (len(runs) < _LEAST_TIMES or runs[1] > runs[0] * _AGREEMENT)

    def _is_short(self, pack: tuple[int, ...]) -> bool:
        """Whether there is time for the pack, by what is known. For two packs there is, so that something is."""
        seconds = self.seconds
        if len(seconds) < 2 and pack not in seconds:
            return True
        full = len(set(pack)) == 1
        expected = seconds.get(pack, self.cost().seconds(sum(pack), len(pack), max(pack), full))
        return self._spent + expected <= PATIENCE

    def _run(self, pack: tuple[int, ...]) -> None:
        if not self._warm:  # the first run allocates
            self._spent += self._time_pack(pack)
            self._warm = True
        seconds = max(self._time_pack(pack), _LEAST_SECONDS)
        self._spent += seconds
        self._runs.setdefault(pack, []).append(seconds)


def pack_timer(session: AcrossRowsSession, manifest: Manifest, packing: PackingSpec, lanes: int) -> Timer:
    """A timer that runs the pack on every lane at once, as it is when there is much to do."""
    specs = {spec.name: spec for spec in manifest.inputs}
    of_run = {name: _value_of_run(specs[name]) for name in packing.run_inputs}

    def time_pack(lengths: Sequence[int]) -> float:
        total = sum(lengths)
        streams = {
            name: np.full((total, *spec.shape[2:]), 1 if name == packing.mask else 0, spec.engine_dtype)
            for name, spec in ((name, specs[name]) for name in packing.dynamic_inputs)
        }
        of_samples = {
            name: np.zeros((len(lengths), *specs[name].shape[1:]), specs[name].engine_dtype)
            for name in packing.sample_inputs
        }
        of_pairs = {
            name: np.zeros((len(lengths), *packing.request_shape(specs[name], max(lengths))), specs[name].engine_dtype)
            for name in packing.pair_inputs
        }
        others = {**of_samples, **of_pairs, **of_run}
        info = np.array(lengths, np.int32)[:, None]
        started = time.perf_counter()
        with ThreadPoolExecutor(lanes) as pool:
            for run in [pool.submit(session.run, streams, info, list(packing.outputs), others) for _ in range(lanes)]:
                run.result()
        return time.perf_counter() - started

    return time_pack


def _value_of_run(spec: TensorSpec) -> Array:
    """A value that a model may divide by; 0 where it numbers a row of a table, which may have one alone."""
    return np.full([extent or 1 for extent in spec.shape], 0 if spec.id_limit else 1, spec.engine_dtype)
