"""Forms packs and runs them: what the workers of both layouts share."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from poprt.engine.protocol import Session
from poprt.executable import Manifest, PackingSpec
from poprt.runtime.buffers import Array, fill, stacked
from poprt.runtime.request import Request
from poprt.runtime.token_axes import own_part


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
        arrays: its dynamic inputs [L, ...], in the order of the packing's ``dynamic_inputs``.
        sample_rows: its row [...] of each of the packing's ``sample_inputs``.
        pairs: the packing's ``pair_inputs``, [..., L, ..., L, ...].
        run_values: the packing's ``run_inputs``, in the engine's types.
        company: equal for requests whose run inputs are equal, down to their bytes. Others share no pack with it.
        lengths: its tokens by segment; they add up to L, which is ``size``.
        outputs: output name -> buffer.

    Args:
        masked: whether its mask leaves out a token.
        alike: whether only samples of the same lengths may share its pack; they are part of its ``kind``.
    """

    __slots__ = ("arrays", "company", "lengths", "masked", "outputs", "pairs", "run_values", "sample_rows")

    def __init__(
        self,
        arrays: Sequence[Array],
        lengths: Sequence[int],
        outputs: dict[str, Array],
        alike: bool = False,
        masked: bool = False,
        *,
        sample_rows: Sequence[Array] = (),
        pairs: Sequence[Array] = (),
        run_values: Sequence[Array] = (),
    ) -> None:
        self.company = tuple((value.shape, value.tobytes()) for value in run_values)
        kind = tuple(lengths) if alike else None
        super().__init__(sum(lengths), (kind, self.company) if run_values else kind)
        self.arrays = arrays
        self.sample_rows = sample_rows
        self.pairs = pairs
        self.run_values = run_values
        self.lengths = lengths
        self.masked = masked
        self.outputs = outputs


class _Spent(threading.local):
    """Seconds that this thread's pack has spent in the engine."""

    seconds = 0.0


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
        self.budget = self.capacity
        self.stats = PackStats()
        self._counting = threading.Lock()
        self._spent = _Spent()
        self._specs = {spec.name: spec for spec in manifest.inputs}
        self.dtypes = {spec.name: np.dtype(spec.engine_dtype) for spec in manifest.inputs}

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether the waiting samples fill a pack."""
        return count >= self.max_count or size >= self.capacity

    @abstractmethod
    def choose(self, window: Sequence[PackRequest]) -> list[PackRequest]:
        """Choose the next pack among waiting samples, in order; the first is in it. None to wait for a release."""

    def release(self, batch: Sequence[PackRequest]) -> None:  # noqa: B027 - most hold nothing
        """The pack that was chosen has run."""

    @abstractmethod
    def results(self, batch: Sequence[PackRequest], names: list[str]) -> list[list[Array]]:
        """Run one pack; return for each named output the values of each sample."""

    def run(self, batch: Sequence[PackRequest]) -> float:
        """Run one pack and fill the output buffers of its requests; return the seconds in the engine."""
        self._spent.seconds = 0.0
        asked = list(dict.fromkeys(name for request in batch for name in request.outputs))
        names = asked or list(self.packing.outputs)  # a request without buffers is a warm-up: it runs all the same
        by_name = dict(zip(names, self.results(batch, names), strict=True))
        # A float32 result beyond float16 becomes infinite, as it would in a run that computes in float16.
        with np.errstate(over="ignore", invalid="ignore"):
            for position, request in enumerate(batch):
                for name, buffer in request.outputs.items():
                    values = by_name[name][position]
                    if buffer.size < values.size:  # no room for the declared shape: the sample's own part of it
                        own = self.packing.places(request.size)
                        values = own_part(values, self.packing.token_axes.get(name, ()), own)
                    fill(name, buffer, values)
        return self._spent.seconds

    def streams(self, batch: Sequence[PackRequest]) -> dict[str, Array]:
        """The tokens of a pack's samples laid end to end: one array [T, ...] an input, in the engine's type."""
        return {
            name: np.concatenate([r.arrays[i] for r in batch], dtype=self.dtypes[name], casting="unsafe")
            for i, name in enumerate(self.packing.dynamic_inputs)
        }

    def whole_inputs(self, batch: Sequence[PackRequest]) -> dict[str, Array]:
        """A pack's inputs without tokens in the engine's types: those of samples and of pairs, [n, ...] in the order of
        ``batch``, pairs with zeros up to the longest sample; and those of its run."""
        feeds = {
            name: np.stack([r.sample_rows[i] for r in batch], dtype=self.dtypes[name], casting="unsafe")
            for i, name in enumerate(self.packing.sample_inputs)
        }
        longest = max(request.size for request in batch)
        for i, name in enumerate(self.packing.pair_inputs):
            shape = self.packing.request_shape(self._specs[name], longest)
            feeds[name] = stacked([request.pairs[i] for request in batch], shape, self.dtypes[name])
        return feeds | dict(zip(self.packing.run_inputs, batch[0].run_values, strict=True))

    def count(self, batch: Sequence[PackRequest], started: float) -> None:
        """Add a pack to the statistics."""
        taken = time.perf_counter() - started
        self._spent.seconds += taken
        added = sum(request.size for request in batch)
        with self._counting:
            packs, samples, tokens, seconds = self.stats
            self.stats = PackStats(packs + 1, samples + len(batch), tokens + added, seconds + taken)
