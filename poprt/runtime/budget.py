"""What packs cost on this machine, and how many tokens one should aim at: found by running a few of ones and zeros."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from poprt.executable import Manifest, PackingSpec
from poprt.runtime.across_rows_session import AcrossRowsSession
from poprt.runtime.pack_cost import PackCost, fit_cost

logger = logging.getLogger("poprt")

#: Pack sizes to try, in tokens. Below, the engine's matrix products are too small; above, activations leave the caches.
CANDIDATES = (256, 512, 1024, 2048)
#: A larger pack must be faster by this factor to be worth its longer wait.
WORTHWHILE = 1.03
#: Seconds after which no further size is tried.
PATIENCE = 1.5
_SAMPLE_LENGTH = 64
#: Packs that tell the parts of the cost apart: a lone short sample, many places that are padding, many pairs.
_PROBES = ((8,), (32, *[1] * 15), (256, 1, 1, 1))

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
    length = min(_SAMPLE_LENGTH, longest)
    sizes = [size for size in CANDIDATES if size <= min(capacity, max_count * length)] or [min(capacity, CANDIDATES[0])]
    timed: dict[tuple[int, ...], float] = {}
    time_pack([length] * max(1, sizes[0] // length))  # the first run allocates
    started = time.perf_counter()
    for probe in _PROBES:
        pack = tuple(min(part, longest) for part in probe[:max_count])
        timed[pack] = min(time_pack(pack) for _ in range(2))
    best, rate = sizes[0], 0.0
    for size in sizes if budget is None else sizes[:1]:
        pack = (length,) * max(1, size // length)
        timed[pack] = min(time_pack(pack) for _ in range(2))
        if size / timed[pack] > rate * WORTHWHILE:
            best, rate = size, size / timed[pack]
        if time.perf_counter() - started + 4 * timed[pack] > PATIENCE:  # two runs of twice the size
            break
    plan = PackPlan(best if budget is None else budget, fit_cost(list(timed), list(timed.values())))
    logger.debug("token budget %d: %.0f tokens/s; %s", plan.budget, rate, plan.cost)
    return plan


def pack_timer(session: AcrossRowsSession, manifest: Manifest, packing: PackingSpec, lanes: int) -> Timer:
    """A timer that runs the pack on every lane at once, as it is when there is much to do."""
    dtypes = {spec.name: spec.engine_dtype for spec in manifest.inputs}

    def time_pack(lengths: Sequence[int]) -> float:
        total = sum(lengths)
        streams = {
            name: np.full(total, 1 if name == packing.mask else 0, dtypes[name]) for name in packing.dynamic_inputs
        }
        info = np.array(lengths, np.int32)[:, None]
        started = time.perf_counter()
        with ThreadPoolExecutor(lanes) as pool:
            for run in [pool.submit(session.run, streams, info, list(packing.outputs)) for _ in range(lanes)]:
                run.result()
        return time.perf_counter() - started

    return time_pack
