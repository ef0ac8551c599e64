"""QuantizeLinear and DequantizeLinear: which places share a scale, and what keeps zero.

    x [B, S, H]  ->  levels round(x / scale) + point, cut to what 8 bits hold  ->  (levels - point) * scale

Where scale and point are constant, a place has the same levels whatever stands beside it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.node_values import constant
from passes.packing.tokens.axes import AxisMap
from passes.refusal import Refusal, because


def refuse_scales(node: gs.Node, axes: AxisMap) -> Refusal | None:
    """Why the scales of a (de)quantisation are not those of every run, or have more than one axis; None otherwise."""
    computed = next((t for t in node.inputs[1:] if not t.is_empty() and not axes.is_free(t)), None)
    if computed is not None:
        return because(f"its scale {computed.name!r} depends on the inputs, so all samples of a run share it")
    scales = axes.shape(node.inputs[1])
    if scales is None or len(scales) > 1 or node.attrs.get("block_size", 0):
        return because(f"its scales {node.inputs[1].name!r} are those of blocks")
    return None


def scaled_axis(node: gs.Node, axes: AxisMap) -> int | None:
    """The axis along which the scales of a (de)quantisation differ; None where all places have one scale."""
    scales, data = axes.shape(node.inputs[1]), axes.shape(node.inputs[0])
    if not scales or scales[0] == 1 or not data:
        return None
    return int(node.attrs.get("axis", 1)) % len(data)


def keeps_zero(node: gs.Node) -> bool:
    """Whether zero has the level 0, so that what is zero before is zero afterwards."""
    point = zero_point(node)
    return point is not None and not point.any()


def zero_point(node: gs.Node) -> np.ndarray | None:
    """The constant zero points of a (de)quantisation; None where they are computed."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return np.zeros((), np.uint8)
    return constant(node.inputs[2])


def rounded_by(node: gs.Node) -> gs.Tensor | None:
    """What a DequantizeLinear gives back rounded: the input of a QuantizeLinear right before it, of the same scales."""
    source = node.inputs[0].inputs[0] if node.op == "DequantizeLinear" and node.inputs[0].inputs else None
    if source is None or source.op != "QuantizeLinear" or source.attrs.get("axis", 1) != node.attrs.get("axis", 1):
        return None
    ours, theirs = (_parameters(item) for item in (node, source))
    same = len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    return source.inputs[0] if same else None


def _parameters(node: gs.Node) -> list[gs.Tensor]:
    return [tensor for tensor in node.inputs[1:] if not tensor.is_empty()]


def _equal(left: gs.Tensor, right: gs.Tensor) -> bool:
    if left is right:
        return True
    ours, theirs = constant(left), constant(right)
    return ours is not None and theirs is not None and np.array_equal(ours, theirs)
