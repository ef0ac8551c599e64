"""Rules of QuantizeLinear and DequantizeLinear: what stands in padding is rounded, and cut to what the levels hold.

A mask of -10000 that is cut to -6 hides nothing any more. So the bounds are those of the levels: zero has the level of
the zero point, and what is lower than the lowest level is that level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.node_values import constant
from passes.packing.isolation import values as v
from passes.packing.isolation.elementwise import broadcast
from passes.packing.isolation.facts import Facts
from passes.packing.isolation.proof import View
from passes.packing.isolation.table import rule
from passes.packing.isolation.values import Values
from passes.packing.tokens.quantised import zero_point
from passes.refusal import Cause, RefusedError, because


@dataclass(frozen=True)
class _Levels:
    """The levels of a (de)quantisation: bounds of its scales, of its zero points, and of the levels' type."""

    scale: tuple[float, float]
    point: tuple[float, float]
    type: tuple[float, float]

    @property
    def one(self) -> bool:
        """Whether all places have the same scale and zero point."""
        return self.scale[0] == self.scale[1] and self.point[0] == self.point[1]


# QuantizeLinear [n, L, H] -> [n, L, H]: padding of zero gets the level of the zero point.
@rule("QuantizeLinear")
def _quantise(view: View) -> Facts:
    levels = _levels(view)
    return broadcast(view, view.node.inputs[:1], lambda _, read, __: _level(read[0], levels))


# DequantizeLinear [n, L, H] -> [n, L, H]: the level of the zero point is zero again.
@rule("DequantizeLinear")
def _dequantise(view: View) -> Facts:
    levels = _levels(view)
    return broadcast(view, view.node.inputs[:1], lambda _, read, __: _number(read[0], levels))


def _levels(view: View) -> _Levels | None:
    """What is known of the levels; None where nothing is but that they are numbers of ordinary size."""
    refusal = view.refuse_scales()
    if refusal is not None:
        raise RefusedError(because(refusal.reason, Cause.SAMPLES))
    scale, point = constant(view.node.inputs[1]), zero_point(view.node)
    if scale is None or point is None or not scale.size or not np.isfinite(scale).all() or not (scale > 0).all():
        return None
    kind = _type_of(view.node, point)
    if kind is None or kind.kind not in "iu":
        return None
    info = np.iinfo(kind)
    return _Levels(_bounds(scale), _bounds(point), (float(info.min), float(info.max)))


def _type_of(node: gs.Node, point: np.ndarray) -> np.dtype | None:
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        return point.dtype
    dtype = (node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]).dtype
    if dtype is None and node.op == "QuantizeLinear" and not node.attrs.get("output_dtype", 0):
        return np.dtype(np.uint8)
    return np.dtype(dtype) if dtype is not None and not isinstance(dtype, int) else None


def _level(number: Values, levels: _Levels | None) -> Values:
    if levels is None:
        return v.ORDINARY
    least, most = levels.type
    if number.nan:
        return Values(least, most)
    if number.is_exact and levels.one:
        return v.exactly(np.clip(np.rint(number.low / levels.scale[0]) + levels.point[0], least, most))
    spare = 0.0 if number.ordinary or number.is_zero else 0.5  # rounding
    low, high = _each(number, [1 / scale for scale in levels.scale])
    spread = Values(low + levels.point[0] - spare, high + levels.point[1] + spare, number.ordinary)
    return v.smallest(v.largest(spread, v.exactly(least)), v.exactly(most))


def _number(level: Values, levels: _Levels | None) -> Values:
    if levels is None:
        return v.ORDINARY
    shifted = Values(level.low - levels.point[1], level.high - levels.point[0], level.ordinary)
    return Values(*_each(shifted, levels.scale), level.ordinary)


def _each(values: Values, factors: Sequence[float]) -> tuple[float, float]:
    """The bounds of ``values`` times factors between these two."""
    products = [bound * factor for bound in (values.low, values.high) for factor in factors]
    return min(products), max(products)


def _bounds(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())
