"""Tell masks' fills among constants that float16 cannot hold: they stand for "lower than all others", as any does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.operators import MOVES, Family, members
from passes.precision.half_values import float_constant

#: No measured quantity: float32's own limits, and what programs write for infinity.
_SENTINEL = 1e30
#: (mask - 1) * 1e9 is written as well, if seldom.
_LEAST_POSITIVE_FILL = 1e8
#: Attention divides scores by the root of a head's size, before the mask or after it.
_LARGEST_SCALE = 64.0
_BOUNDS = members(Family.CLAMP)
_FILLING = frozenset(["Where", "ScatterElements", "ScatterND", "Pad"])
_PASSING = MOVES | members(Family.ARITHMETIC, Family.CLAMP, Family.CONVERSION, Family.SIGN) | {"Where", "Sum"}
_FUSED_ATTENTION = {
    "Attention",
    "BiasSoftmax",
    "DecoderMaskedMultiHeadAttention",
    "GroupQueryAttention",
    "MultiHeadAttention",
    "PackedAttention",
}
_ORDER = {"ArgMax", "ArgMin", "GlobalMaxPool", "Hardmax", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin", "TopK"}
_SATURATE = members(Family.SATURATION) | {"LogSoftmax", "ReduceLogSumExp", "Softmax"}
_WHERE_LARGEST_WINS = frozenset(_FUSED_ATTENTION | _ORDER | _SATURATE)


def is_fill(node: gs.Node, beyond: np.ndarray[Any, Any]) -> bool:
    """Whether numbers beyond float16 stand for "lower than all others", or are a bound that nothing reaches."""
    if node.op == "Div":
        return False
    below, above = bool((beyond < 0).all()), bool((beyond > 0).all())
    least = float(np.abs(beyond).min())
    if least >= _SENTINEL or (node.op in _FILLING and below):
        return True
    if node.op in _BOUNDS:
        return node.op == "Clip" or (below if node.op == "Max" else above)
    return node.op in _PASSING and (below or least >= _LEAST_POSITIVE_FILL) and _is_compared(node)


def _is_compared(node: gs.Node) -> bool:
    """Whether what ``node`` makes ends, added to or moved, where the largest number wins."""
    stack, seen = [node], {id(node)}
    while stack:
        for reader in (reader for tensor in stack.pop().outputs for reader in tensor.outputs):
            if reader.op in _WHERE_LARGEST_WINS:
                return True
            if reader.op in _PASSING and id(reader) not in seen and not _rescales(reader):
                seen.add(id(reader))
                stack.append(reader)
    return False


def _rescales(node: gs.Node) -> bool:
    """Whether a product or quotient brings large numbers back to ordinary ones; attention's own scale does not."""
    if node.op not in ("Mul", "Div"):
        return False
    factors = [np.abs(values[values != 0]) for tensor in node.inputs if (values := float_constant(tensor)) is not None]
    return any(((f < 1 / _LARGEST_SCALE) | (f > _LARGEST_SCALE)).any() for f in factors)
