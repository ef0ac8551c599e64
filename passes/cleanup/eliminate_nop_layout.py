"""Remove what leaves the shape as it is: Expand, Flatten and Pad that do nothing."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.arithmetic import rank_of
from passes.cleanup.nop_nodes import NopElimination
from passes.cleanup.rewiring import is_op
from passes.node_values import constant
from passes.registry import register


@register("eliminate_nop_expand")
class EliminateNopExpand(NopElimination):
    """Removes Expand to a constant shape that the tensor provably has, or that is 1 where it is not known.

    Expand of [B, 4] to [1, 4] -> [B, 4] itself. Works in the main graph, subgraphs and local functions.
    """

    what = "expands removed"

    def is_nop(self, node: gs.Node) -> bool:
        """Whether the shape stays."""
        if not is_op(node, "Expand") or node.inputs[0].shape is None:
            return False
        target, shape = constant(node.inputs[1]), list(node.inputs[0].shape)
        if target is None or target.size > len(shape):
            return False
        last = shape[len(shape) - target.size :]
        return all(asked in (1, extent) for asked, extent in zip(target.tolist(), last, strict=True))


@register("eliminate_nop_flatten")
class EliminateNopFlatten(NopElimination):
    """Removes Flatten of a matrix at axis 1: [N, C] -> [N, C] itself. Works in subgraphs and local functions, too."""

    what = "flattens removed"

    def is_nop(self, node: gs.Node) -> bool:
        """Whether the result is the matrix that is read."""
        return is_op(node, "Flatten") and rank_of(node.inputs[0]) == 2 and node.attrs.get("axis", 1) in (1, -1)


@register("eliminate_nop_pad")
class EliminateNopPad(NopElimination):
    """Removes Pad by nothing: [N, C] with pads 0, 0, 0, 0 -> [N, C] itself. Works in the main graph, subgraphs and
    local functions. Does nothing where the pads are computed.
    """

    what = "pads removed"

    def is_nop(self, node: gs.Node) -> bool:
        """Whether all pads are zero."""
        if not is_op(node, "Pad"):
            return False
        values = node.attrs.get("pads", None if len(node.inputs) < 2 else constant(node.inputs[1]))
        return values is not None and not any(int(value) for value in values)
