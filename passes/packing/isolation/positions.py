"""Facts of tensors that depend on the extents alone: position tables, relative distances, causal masks, lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import sympy

from passes.packing.isolation.facts import Facts
from passes.packing.isolation.values import UNKNOWN, Values
from passes.packing.tokens.axes import BATCH, AxisMap
from passes.packing.tokens.positional import Positional
from passes.packing.tokens.subsampling import WHOLE, Subsampling, subsampling_of
from passes.refusal import Cause, Refusal, RefusedError, refused

_LENGTHS, _SAMPLES = (5, 8), 3
#: Places up to which a pair of places is computed; tables with one sequence axis are computed whole.
_LONGEST_PAIR = 128

Array = np.ndarray[Any, Any]


class PositionFacts:
    """What stands in positional tensors, found by computing them for a few lengths and numbers of samples.

    Args:
        positional: computes them.
        axes: their shapes.
        width: places of the longest sample.
    """

    def __init__(self, positional: Positional, axes: AxisMap, width: int) -> None:
        self._positional, self._axes, self._width = positional, axes, width
        self._answers: dict[str, Facts | Refusal] = {}

    def facts(self, tensor: gs.Tensor) -> Facts:
        """The facts of a positional tensor.

        Raises:
            RefusedError: a place has another value in a longer run, or in one of more samples.
        """
        if tensor.name not in self._answers:
            try:
                self._answers[tensor.name] = self._facts(tensor)
            except RefusedError as error:
                self._answers[tensor.name] = error.refusal
        answer = self._answers[tensor.name]
        if isinstance(answer, Refusal):
            raise RefusedError(answer)
        return answer

    def _facts(self, tensor: gs.Tensor) -> Facts:
        shape = self._axes.shape(tensor)
        extents = [sympy.sympify(extent) for extent in shape or ()]
        places = {axis: subsampling_of(extent) for axis, extent in enumerate(extents)}
        kinds = {item for item in places.values() if item is not None}
        kind = kinds.pop() if len(kinds) == 1 else WHOLE
        seq = tuple(axis for axis, item in places.items() if item == kind)
        batch = tuple(axis for axis, extent in enumerate(extents) if _is_number(extent / BATCH))
        others = [extent for axis, extent in enumerate(extents) if axis not in seq + batch and not _is_number(extent)]
        if shape is None or len(seq) > 2 or any(BATCH in extent.free_symbols for extent in others):
            raise refused(f"{tensor.name!r} depends on the extents of the run", Cause.SAMPLES)
        if others:
            self._check_samples(tensor, self._positional.value(tensor, _LENGTHS[0], 1), (), batch, WHOLE)
            raise refused(f"it reads the padded length from {tensor.name!r}", Cause.PADDING)
        longest = min(self._width, kind.tokens(_LONGEST_PAIR)) if len(seq) == 2 else self._width
        whole = self._positional.value(tensor, max(longest, *map(kind.tokens, _LENGTHS)), 1)
        self._check_lengths(tensor, whole, seq, kind)
        self._check_samples(tensor, whole, seq, batch, kind)
        return _by_place(np.asarray(whole, np.float64), seq)

    def _check_lengths(self, tensor: gs.Tensor, whole: Array, seq: tuple[int, ...], kind: Subsampling) -> None:
        for places in _LENGTHS:
            if not _same(self._positional.value(tensor, kind.tokens(places), 1), _leading(whole, seq, places)):
                raise refused(f"it reads the padded length from {tensor.name!r}", Cause.PADDING)

    def _check_samples(
        self, tensor: gs.Tensor, whole: Array, seq: tuple[int, ...], batch: tuple[int, ...], kind: Subsampling
    ) -> None:
        several = self._positional.value(tensor, kind.tokens(_LENGTHS[0]), _SAMPLES)
        alone = _leading(whole, seq, _LENGTHS[0])
        times = [_SAMPLES if axis in batch else 1 for axis in range(alone.ndim)]
        repeated = alone.repeat(_SAMPLES, axis=batch[0]) if batch else alone
        if not (_same(several, np.tile(alone, times)) or _same(several, repeated)):
            raise refused(f"it reads the number of samples in the run from {tensor.name!r}", Cause.SAMPLES)


def _by_place(values: Array, seq: tuple[int, ...]) -> Facts:
    """Facts of computed values. A longer run has more places, and the first of them hold the same."""
    everything = _range(values)
    if len(seq) != 2:
        return Facts(everything, dict.fromkeys(seq, everything), everything)
    # At (i, j), a sample that ends between i and j has padding at j and a place of its own at i.
    pairs = np.moveaxis(values, seq, (-2, -1))
    above = np.triu(np.ones(pairs.shape[-2:], bool), 1)
    later, earlier = _range(pairs[..., above]), _range(pairs[..., above.T])
    return Facts(everything, {seq[0]: earlier, seq[1]: later}, everything)


def _range(values: Array) -> Values:
    if not values.size or np.isnan(values).any():
        return UNKNOWN
    return Values(float(values.min()), float(values.max()))


def _leading(values: Array, axes: tuple[int, ...], length: int) -> Array:
    places = [slice(length) if axis in axes else slice(None) for axis in range(values.ndim)]
    return values[tuple(places)]


def _same(left: Array, right: Array) -> bool:
    if left.shape != right.shape:
        return False
    if np.issubdtype(left.dtype, np.floating):
        return bool(np.allclose(left, right, rtol=1e-6, atol=1e-7, equal_nan=True))
    return bool(np.array_equal(left, right))


def _is_number(extent: sympy.Expr) -> bool:
    return not extent.free_symbols
