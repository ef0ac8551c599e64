"""Remove casts to the type that the tensor has already."""

import onnx_graphsurgeon as gs

from passes.cleanup.nop_nodes import NopElimination
from passes.cleanup.rewiring import is_op, onnx_dtype
from passes.registry import register


@register("eliminate_nop_cast")
class EliminateNopCast(NopElimination):
    """Removes ``Cast`` where the input is known to have the target type. An input of unknown type keeps its cast."""

    what = "casts removed"

    def is_nop(self, node: gs.Node) -> bool:
        """Whether the cast's input has the target type."""
        return is_op(node, "Cast") and onnx_dtype(node.inputs[0]) == node.attrs["to"]
