"""Remove Identity nodes."""

import onnx_graphsurgeon as gs

from passes.cleanup.nop_nodes import NopElimination
from passes.cleanup.rewiring import is_op
from passes.registry import register


@register("eliminate_identity")
class EliminateIdentity(NopElimination):
    """Removes ``Identity``. One that connects a graph input, a constant or an outer tensor to an output stays."""

    what = "identities removed"

    def is_nop(self, node: gs.Node) -> bool:
        """Every Identity is one."""
        return is_op(node, "Identity")
