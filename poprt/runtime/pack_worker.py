"""Forms packs and runs them: one worker for each of the two ways to lay out samples."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from poprt.executable import Manifest, PackingSpec
from poprt.runtime.batching import Request
from poprt.runtime.budget import find_token_budget
from poprt.runtime.buffers import Array, fill
from poprt.runtime.config import PackAlgorithm
from poprt.runtime.placement import Place, choose_pack, place_within_rows, stream_distances
from poprt.runtime.stream import Session, StreamSession


class PackStats(NamedTuple):
    """What a pack runner has done so far: packs, samples and tokens run, and seconds spent in the engine.

    Seconds of all lanes are added up: two lanes spend two a second.
    """

    packs: int = 0
    samples: int = 0
    tokens: int = 0
    engine_seconds: float = 0.0


class PackRequest(Request):
    """One sample.

    Attributes:
        arrays: its dynamic inputs [L], in the order of the packing's ``dynamic_inputs``.
        lengths: its tokens by segment; they add up to L, which is ``size``.
        outputs: output name -> buffer.
    """

    __slots__ = ("arrays", "lengths", "outputs")

    def __init__(self, arrays: Sequence[Array], lengths: Sequence[int], outputs: dict[str, Array]) -> None:
        super().__init__(sum(lengths))
        self.arrays = arrays
        self.lengths = lengths
        self.outputs = outputs


class PackWorker(ABC):
    """Runs packs of requests.

    Args:
        session: the engine's session.
        manifest, packing: the executable's.
        max_count: most samples in one pack.
    """

    def __init__(self, session: Session, manifest: Manifest, packing: PackingSpec, max_count: int) -> None:
        self.session = session
        self.packing = packing
        self.max_count = max_count
        self.capacity = packing.rows * packing.columns
        self.stats = PackStats()
        self._counting = threading.Lock()
        self.dtypes = {spec.name: np.dtype(spec.engine_dtype) for spec in manifest.inputs}

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether the waiting samples fill a pack."""
        return count >= self.max_count or size >= self.capacity

    @abstractmethod
    def choose(self, window: Sequence[PackRequest]) -> list[PackRequest]:
        """Choose the next pack among waiting samples, oldest first; the oldest is in it."""

    @abstractmethod
    def results(self, batch: Sequence[PackRequest], names: list[str]) -> list[list[Array]]:
        """Run one pack; return for each named output the values of each sample."""

    def run(self, batch: Sequence[PackRequest]) -> None:
        """Run one pack and fill the output buffers of its requests."""
        wanted = list(dict.fromkeys(name for request in batch for name in request.outputs))
        names = wanted or list(self.packing.outputs)  # a request without buffers is a warm-up: it runs all the same
        by_name = dict(zip(names, self.results(batch, names), strict=True))
        # A float32 result beyond float16 becomes infinite, as it would in a run that computes in float16.
        with np.errstate(over="ignore", invalid="ignore"):
            for position, request in enumerate(batch):
                for name, buffer in request.outputs.items():
                    fill(name, buffer, by_name[name][position])

    def streams(self, batch: Sequence[PackRequest]) -> dict[str, Array]:
        """Lay the samples of a pack end to end: one array [T] an input, in the engine's type."""
        return {
            name: np.concatenate([r.arrays[i] for r in batch], dtype=self.dtypes[name], casting="unsafe")
            for i, name in enumerate(self.packing.dynamic_inputs)
        }

    def count(self, batch: Sequence[PackRequest], started: float) -> None:
        """Add a pack to the statistics."""
        taken = time.perf_counter() - started
        added = sum(request.size for request in batch)
        with self._counting:
            packs, samples, tokens, seconds = self.stats
            self.stats = PackStats(packs + 1, samples + len(batch), tokens + added, seconds + taken)


class StreamWorker(PackWorker):
    """Samples laid end to end, a row apart only in the result (Unpack/Repack).

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
        self.stream = StreamSession(session, manifest, packing)
        # A graph of fixed rows costs the same however many tokens it holds: fill it.
        aim = self.capacity
        if packing.ragged and token_budget is None:
            aim = find_token_budget(self.stream, manifest, packing, max_count)
        elif packing.ragged and token_budget:
            aim = token_budget
        self.budget = min(aim, self.capacity)

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether the waiting samples fill a pack."""
        return count >= self.max_count or size >= self.budget

    def choose(self, window: Sequence[PackRequest]) -> list[PackRequest]:
        """Put samples of similar length together: the engine unpacks each to the longest of its pack."""
        sizes = [request.size for request in window]
        chosen = choose_pack(sizes, self.budget, self.capacity, self.max_count, self.shares)
        return [window[i] for i in chosen]

    def results(self, batch: Sequence[PackRequest], names: list[str]) -> list[list[Array]]:
        """Run one pack; return for each named output the values of each sample."""
        lengths = np.array([request.lengths for request in batch], np.int32)
        streams = self.streams(batch)
        started = time.perf_counter()
        outputs = self.stream.run(streams, lengths, names)
        self.count(batch, started)
        return [
            list(self.stream.sample_rows(name, output, len(batch)))
            if self.packing.outputs[name] == "sample"
            else self.stream.sample_tokens(output, lengths)
            for name, output in zip(names, outputs, strict=True)
        ]


class RowWorker(PackWorker):
    """Samples that share rows and never cross one (AttentionMask), with or without a final Unpack.

    Args:
        algorithm: how rows are filled.
        delimiter: zeros between two samples of a row.
        mask: name of the mask input, whose values number the samples of a row.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        packing: PackingSpec,
        max_count: int,
        algorithm: PackAlgorithm,
        delimiter: int,
        mask: str,
    ) -> None:
        super().__init__(session, manifest, packing, max_count)
        self.algorithm = algorithm
        self.delimiter = delimiter
        self.mask = mask

    def _place(self, requests: Sequence[PackRequest]) -> list[Place | None]:
        lengths = [request.size for request in requests]
        rows, columns = self.packing.rows, self.packing.columns
        return place_within_rows(lengths, rows, columns, self.max_count, self.algorithm, self.delimiter)

    def choose(self, window: Sequence[PackRequest]) -> list[PackRequest]:
        """Fill a pack, the oldest samples first."""
        return [request for request, place in zip(window, self._place(window), strict=True) if place is not None]

    def results(self, batch: Sequence[PackRequest], names: list[str]) -> list[list[Array]]:
        """Run one pack; return for each named output the values of each sample."""
        # A pack holds only samples that fit, and placing it again gives the places it was planned with.
        places = [place for place in self._place(batch) if place is not None]
        starts = [place.row * self.packing.columns + place.start for place in places]
        order = sorted(range(len(batch)), key=starts.__getitem__)
        feeds = self._feeds(batch, places, starts)
        if self.packing.unpack_info:
            feeds[self.packing.unpack_info] = self._distances([places[i] for i in order])
        started = time.perf_counter()
        outputs = self.session.run(feeds, names)
        self.count(batch, started)
        rank = {sample: position for position, sample in enumerate(order)}
        return [
            self._values(self.packing.outputs[name], output, batch, starts, rank)
            for name, output in zip(names, outputs, strict=True)
        ]

    def _feeds(self, batch: Sequence[PackRequest], places: Sequence[Place], starts: Sequence[int]) -> dict[str, Array]:
        lengths = np.array([request.size for request in batch])
        first = np.cumsum(lengths) - lengths
        where = np.repeat(np.array(starts) - first, lengths) + np.arange(lengths.sum())
        streams = self.streams(batch)
        numbers = np.repeat(_numbers_in_row(places), lengths)
        streams[self.mask] = np.where(streams[self.mask] != 0, numbers, 0).astype(self.dtypes[self.mask])
        feeds: dict[str, Array] = {}
        for name, stream in streams.items():
            flat = np.zeros(self.capacity, stream.dtype)
            flat[where] = stream
            feeds[name] = flat.reshape(self.packing.rows, self.packing.columns)
        return feeds

    def _distances(self, places: Sequence[Place]) -> Array:
        info = np.zeros((self.packing.max_valid_num, 1), self.dtypes[self.packing.unpack_info])
        info[: len(places), 0] = stream_distances(places, self.packing.columns)
        return info

    def _values(
        self, kind: str, output: Array, batch: Sequence[PackRequest], starts: Sequence[int], rank: dict[int, int]
    ) -> list[Array]:
        if kind == "packed":
            flat = output.reshape(self.capacity, *output.shape[2:])
            return [flat[start : start + request.size] for start, request in zip(starts, batch, strict=True)]
        if kind == "sample":
            return [output[rank[i]] for i in range(len(batch))]
        return [output[rank[i], : request.size] for i, request in enumerate(batch)]


def _numbers_in_row(places: Sequence[Place]) -> list[int]:
    """Number the samples of each row 1, 2, ... in the order in which they were placed."""
    seen: dict[int, int] = {}
    numbers = []
    for place in places:
        seen[place.row] = seen.get(place.row, 0) + 1
        numbers.append(seen[place.row])
    return numbers
