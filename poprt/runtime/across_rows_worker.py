"""Packs of samples that are laid end to end."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from poprt.engine.protocol import Session
from poprt.executable import Manifest, PackingSpec
from poprt.runtime.across_rows_session import AcrossRowsSession
from poprt.runtime.budget import find_token_budget
from poprt.runtime.buffers import Array
from poprt.runtime.pack_worker import PackRequest, PackWorker
from poprt.runtime.places import choose_equal, choose_pack


class AcrossRowsWorker(PackWorker):
    """Samples laid end to end, a row apart only in the result.

    Args:
        token_budget: tokens that a pack aims at where the engine takes any number; 0 takes the declared capacity, None
            finds out (:mod:`poprt.runtime.budget`).
        shares: packs that what waits is divided into, where that gives each enough tokens to be worth a run.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        packing: PackingSpec,
        max_count: int,
        token_budget: int | None,
        shares: int,
    ) -> None:
        super().__init__(session, manifest, packing, max_count)
        self.shares = shares
        self.across_rows = AcrossRowsSession(session, manifest, packing)
        # A graph of fixed rows costs the same however many tokens it holds: fill it.
        aim = self.capacity
        if packing.ragged and token_budget is None and max_count > 1:
            aim = find_token_budget(self.across_rows, manifest, packing, max_count)
        elif packing.ragged and token_budget:
            aim = token_budget
        self.budget = min(aim, self.capacity)

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether the waiting samples fill a pack."""
        return count >= self.max_count or size >= self.budget

    def choose(self, window: Sequence[PackRequest]) -> list[PackRequest]:
        """Put samples of similar length together: the engine unpacks each to the longest of its pack.

        Where padding would show in an answer (``PackingSpec.neighbours``), samples of one length alone.
        """
        sizes = [request.size for request in window]
        limits = self.budget, self.capacity, self.max_count, self.shares
        if self.packing.neighbours == "same_length":
            chosen = choose_equal([request.kind for request in window], sizes, *limits)
        else:
            chosen = choose_pack(sizes, *limits)
        return [window[i] for i in chosen]

    def results(self, batch: Sequence[PackRequest], names: list[str]) -> list[list[Array]]:
        """Run one pack; return for each named output the values of each sample."""
        lengths = np.array([request.lengths for request in batch], np.int32)
        streams = self.streams(batch)
        started = time.perf_counter()
        outputs = self.across_rows.run(streams, lengths, names)
        self.count(batch, started)
        return [
            list(self.across_rows.sample_rows(name, output, lengths))
            if self.packing.outputs[name] == "sample"
            else self.across_rows.sample_tokens(output, lengths)
            for name, output in zip(names, outputs, strict=True)
        ]
