"""Remove sums with zero and products with one."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.arithmetic import rank_of, scalar
from passes.cleanup.nop_nodes import NopElimination
from passes.cleanup.rewiring import is_op
from passes.registry import register

#: Operator -> the number that changes nothing, and at which places it may stand.
_NEUTRAL = {"Add": (0.0, (0, 1)), "Sub": (0.0, (1,)), "Mul": (1.0, (0, 1)), "Div": (1.0, (1,)), "Pow": (1.0, (1,))}


@register("eliminate_nop_arithmetic")
class EliminateNopArithmetic(NopElimination):
    """Removes x + 0, x - 0, x * 1, x / 1 and x to the power of 1.

    Mul of [B, S] by 1 -> [B, S] itself. The number has to be a constant that adds no axis. Works in the main graph,
    subgraphs and local functions.
    """

    what = "arithmetic removed"

    def is_nop(self, node: gs.Node) -> bool:
        """Whether one operand is the neutral number."""
        return _neutral_place(node) is not None

    def kept_input(self, node: gs.Node) -> int:
        """The operand that is not the number."""
        return 1 if _neutral_place(node) == 0 else 0


def _neutral_place(node: gs.Node) -> int | None:
    if not is_op(node, *_NEUTRAL):
        return None
    neutral, places = _NEUTRAL[node.op]
    for place in places[::-1]:
        rank = rank_of(node.inputs[1 - place])
        if (rank is not None or node.inputs[place].shape == ()) and scalar(node.inputs[place], rank) == neutral:
            return place
    return None
