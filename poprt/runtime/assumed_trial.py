"""Tries an executable that does not say how it is packed: do its samples leave each other alone, and padding them?

Nothing proves it for such an executable, and a wrong option would show in the answers alone. So a few samples of random
values are run, in company and by themselves, before the first request. Where they move each other, none has company.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from poprt.errors import PoprtError
from poprt.executable import Manifest, TensorSpec
from poprt.runtime.across_rows_worker import AcrossRowsWorker
from poprt.runtime.assumed_packing import AssumedPacking
from poprt.runtime.buffers import Array
from poprt.runtime.pack_worker import PackRequest, PackStats, PackWorker
from poprt.runtime.places import Place
from poprt.runtime.within_rows_worker import WithinRowsWorker

logger = logging.getLogger("poprt")

#: How far an answer may move, as a share of its largest value: roundings of engines that compute in float32 or float16.
TOLERANCE = {"float32": 1e-4, "float64": 1e-6, "float16": 1e-2}
_DRAWS = 2  # whole numbers may agree by chance


def tried(worker: PackWorker, manifest: Manifest, assumed: AssumedPacking) -> PackWorker:
    """``worker``, which gives samples company only where that leaves their answers alone.

    Raises:
        PoprtError: padding shows in the answers, so that no sample can be run in these rows.
    """
    trial = _Trial(worker, manifest)
    if isinstance(worker, AcrossRowsWorker):
        moved = trial.moved_by_company()
        if moved:
            _warn(moved, "a pack takes one sample; enable_input_single_row_mode keeps samples in rows")
            worker.max_count = 1
    elif isinstance(worker, WithinRowsWorker):
        worker.shares_rows = assumed.shares_rows
        moved = trial.moved_by_company() if worker.shares_rows else ""
        if moved:
            _warn(moved, "a row takes one sample")
            worker.shares_rows = False
        trial.look_behind(worker)
    worker.stats = PackStats()
    return worker


def _warn(output: str, consequence: str) -> None:
    logger.warning(
        "the executable is not packed, and output %r of a sample changes with its company, so %s; convert the model "
        "with pack_args or the pass insert_attention_mask to pack it",
        output,
        consequence,
    )


class _Trial:
    """Runs samples of random values."""

    def __init__(self, worker: PackWorker, manifest: Manifest) -> None:
        self._worker = worker
        self._packing = worker.packing
        self._specs = {spec.name: spec for spec in manifest.inputs}
        self._tolerance = {spec.name: TOLERANCE.get(spec.engine_dtype, 0.0) for spec in manifest.outputs}
        self._names = list(worker.packing.outputs)
        self._rng = np.random.default_rng(0)

    def moved_by_company(self) -> str:
        """The first output of a sample that is another beside a second one; "" where none is."""
        for _ in range(_DRAWS):
            pair = [self._sample(length) for length in self._lengths()]
            together = self._worker.results(pair, self._names)
            for position, sample in enumerate(pair):
                alone = [values[0] for values in self._worker.results([sample], self._names)]
                moved = self._moved([values[position] for values in together], alone)
                if moved:
                    return moved
        return ""

    def look_behind(self, worker: WithinRowsWorker) -> None:
        """Run a sample with zeros and with other tokens behind it in its row, where its mask says that nothing is.

        Of an output [rows, columns] this tells whether it has a value a place, which changes there, or a row of as
        many values for the sample. That is noted in the worker's packing.

        Raises:
            PoprtError: rows are not shared, and an answer depends on what stands there.
        """
        length = max(1, self._packing.columns // 2)
        if length == self._packing.columns:
            return
        feeds = worker.feeds([self._sample(length)], [Place(0, 0, length)], self._packing.rows)
        runs = [worker.session.run(each, self._names) for each in (feeds, self._with_junk(feeds, length))]
        rows = [{name: output[0] for name, output in zip(self._names, run, strict=True)} for run in runs]
        pooled = {name: "sample" for name in self._names if self._is_pooled(name, rows[0][name], rows[1][name], length)}
        kinds = self._packing.outputs | pooled
        worker.packing = self._packing = replace(self._packing, outputs=kinds)
        own = [[row[name] if kinds[name] == "sample" else row[name][:length] for name in self._names] for row in rows]
        moved = "" if worker.shares_rows else self._moved(own[1], own[0])
        if moved:
            raise PoprtError(
                f"the executable is not packed, and output {moved!r} of a sample changes with what stands behind it in "
                f"its row of {self._packing.columns}: the model has no mask that hides padding, or the options do not "
                "name it (enable_padding_remove_mode); convert the model with pack_args, or give a ModelRunner samples "
                "of that length"
            )

    def _lengths(self) -> tuple[int, int]:
        """A longer and a shorter sample that fit one row, or nearly."""
        longest = self._packing.columns
        return max(1, longest // 2), max(1, longest // 4)

    def _sample(self, length: int) -> PackRequest:
        packing = self._packing
        arrays = [self._values(self._specs[name], length) for name in packing.dynamic_inputs]
        rows = [self._random(self._specs[name], self._specs[name].shape[1:]) for name in packing.sample_inputs]
        return PackRequest(arrays, self._split(length), {}, sample_rows=rows)

    def _split(self, length: int) -> tuple[int, ...]:
        """All in the first segments, as a request that says nothing of them."""
        if self._packing.within_rows:
            return (length,)
        parts: list[int] = []
        for size in self._packing.segment_max_size:
            parts.append(min(size, length - sum(parts)))
        return tuple(parts)

    def _values(self, spec: TensorSpec, length: int) -> Array:
        shape = (length, *spec.shape[2:])
        if spec.name == self._packing.mask:
            return np.ones(shape, spec.dtype)
        if spec.name == self._packing.position_ids:
            return np.arange(length).astype(spec.dtype)
        return self._random(spec, shape)

    def _random(self, spec: TensorSpec, shape: Sequence[int]) -> Array:
        """Any values that the input takes; 0 and 1 where whole numbers have no limit that is known."""
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            return self._rng.standard_normal(shape).astype(dtype)
        return self._rng.integers(0, spec.id_limit or 2, shape).astype(dtype)

    def _with_junk(self, feeds: Mapping[str, Array], length: int) -> dict[str, Array]:
        """``feeds`` with random values behind the sample of the first row, but for the mask and the positions."""
        others = {self._packing.mask, self._packing.position_ids}
        junk = {name: array.copy() for name, array in feeds.items()}
        for name in self._packing.dynamic_inputs:
            if name not in others:
                behind = junk[name][0, length:]
                behind[...] = self._random(self._specs[name], behind.shape)
        return junk

    def _is_pooled(self, name: str, row: Array, other: Array, length: int) -> bool:
        """Whether a row of one value a place, as its shape has it, is of the sample as a whole."""
        behind = row[length:] if row.ndim == 1 else row[:0]
        unchanged = _same(behind, other[length:], self._tolerance[name])
        varied = len(np.unique(behind[np.isfinite(behind)])) > 1
        return self._packing.outputs[name] != "sample" and unchanged and varied

    def _moved(self, answers: Sequence[Array], expected: Sequence[Array]) -> str:
        """The first output whose answers differ by more than roundings do."""
        for name, answer, other in zip(self._names, answers, expected, strict=True):
            if not _same(answer, other, self._tolerance[name]):
                return name
        return ""


def _same(answer: Array, expected: Array, tolerance: float) -> bool:
    if not tolerance:
        return bool(np.array_equal(answer, expected))
    a, b = answer.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return False
    scale = float(np.abs(b[finite]).max(initial=0.0))
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) <= tolerance * scale
