"""Packs of samples that are laid end to end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from poprt.engine.protocol import Session
from poprt.executable import Manifest, PackingSpec
from poprt.runtime.across_rows_session import AcrossRowsSession
from poprt.runtime.budget import pack_timer, plan_packs
from poprt.runtime.buffers import Array
from poprt.runtime.config import PackRunnerConfig
from poprt.runtime.memory_room import MemoryRoom
from poprt.runtime.pack_choice import PackLimits, choose_equal, choose_pack
from poprt.runtime.pack_cost import PackCost
from poprt.runtime.pack_worker import PackRequest, PackWorker

logger = logging.getLogger("poprt")


class AcrossRowsWorker(PackWorker):
    """Samples laid end to end, a row apart only in the result.

    Args:
        max_count: most samples in one pack.
        options: ``token_budget``: tokens that a pack aims at where the engine takes any number; 0 takes the declared
            capacity, None finds out (:mod:`poprt.runtime.budget`). ``latency_target``: a pack takes half of it at most,
            for a request may arrive when one begins. ``max_pack_bytes``: of all packs that run.
        lanes: packs that run at the same time.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        packing: PackingSpec,
        max_count: int,
        options: PackRunnerConfig,
        lanes: int,
    ) -> None:
        super().__init__(session, manifest, packing, max_count)
        self.across_rows = AcrossRowsSession(session, manifest, packing)
        self.cost: PackCost | None = None
        # A graph of fixed rows costs the same however many tokens it holds: fill it.
        if packing.ragged and max_count > 1:
            timer = pack_timer(self.across_rows, manifest, packing, lanes)
            plan = plan_packs(timer, packing, max_count, options.token_budget)
            self.cost = plan.cost
            self.budget = min(plan.budget or self.capacity, self.capacity)
        # Whoever waits for full packs, or pays for a whole one however little it holds, wants no smaller ones.
        self.shares = lanes if packing.ragged and options.send_when_idle else 1
        self._seconds = _longest_run(options.latency_seconds(), self.cost)
        self._room = MemoryRoom(options.pack_bytes(lanes))

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether the waiting samples fill a pack."""
        return count >= self.max_count or size >= self.budget

    def choose(self, window: Sequence[PackRequest]) -> list[PackRequest]:
        """Put samples of similar length together: the engine unpacks each to the longest of its pack.

        Where padding would show in an answer (``PackingSpec.neighbours``), samples of one length alone. None while the
        packs that run leave the first no memory.
        """
        # A masked token inside a sample keeps attention from the short way of full packs.
        first = window[0]
        window = [r for r in window if r.masked == first.masked and r.company == first.company]
        sizes = [request.size for request in window]
        room = self._room.left(self._bytes(window[:1]), sizes[0])
        if room is None:
            return []
        limits = PackLimits(self.budget, self.capacity, self.max_count, self.shares, self._seconds, room)
        packing, cost = self.packing, self.cost
        if window[0].masked:
            packing, cost = replace(packing, equal_lengths_cheaper=False), cost and replace(cost, full_pair=None)
        if packing.neighbours == "same_length":
            chosen = choose_equal([request.kind for request in window], sizes, limits, packing, cost)
        else:
            chosen = choose_pack(sizes, limits, packing, cost)
        batch = [window[i] for i in chosen]
        self._room.take(self._bytes(batch))
        return batch

    def release(self, batch: Sequence[PackRequest]) -> None:
        """The pack that was chosen has run."""
        self._room.give_back(self._bytes(batch))

    def _bytes(self, batch: Sequence[PackRequest]) -> int:
        sizes = [request.size for request in batch]
        full = len(set(sizes)) == 1 and not batch[0].masked
        return self.packing.padded_bytes(len(sizes), max(sizes), full)

    def results(self, batch: Sequence[PackRequest], names: list[str]) -> list[list[Array]]:
        """Run one pack; return for each named output the values of each sample."""
        lengths = np.array([request.lengths for request in batch], np.int32)
        streams = self.streams(batch)
        started = time.perf_counter()
        outputs = self.across_rows.run(streams, lengths, names, self.whole_inputs(batch))
        self.count(batch, started)
        return [
            list(self.across_rows.sample_rows(name, output, lengths))
            if self.packing.outputs[name] == "sample"
            else self.across_rows.sample_tokens(output, lengths)
            for name, output in zip(names, outputs, strict=True)
        ]


def _longest_run(target: float | None, cost: PackCost | None) -> float:
    """Seconds that a pack may take, so that a request that arrives when one begins is answered within ``target``."""
    if target is None:
        return math.inf
    if cost is None:
        logger.warning("latency_target has no effect: every run of this executable takes the same time")
        return math.inf
    shortest = cost.start + cost.own(1)
    if shortest > target / 2:
        logger.warning("latency_target=%g s cannot be kept: the shortest run takes %.2g s", target, shortest)
    return target / 2
