"""Remove transposes that keep the order of the axes."""

import onnx_graphsurgeon as gs

from passes.cleanup.nop_nodes import NopElimination
from passes.cleanup.rewiring import is_op
from passes.registry import register


@register("eliminate_nop_transpose")
class EliminateNopTranspose(NopElimination):
    """Removes ``Transpose`` whose ``perm`` is 0, 1, 2, …, and one without ``perm`` on a tensor of rank 0 or 1."""

    what = "transposes removed"

    def is_nop(self, node: gs.Node) -> bool:
        """Whether the axes stay where they are."""
        if not is_op(node, "Transpose"):
            return False
        perm = node.attrs.get("perm")
        if isinstance(perm, list):
            return perm == list(range(len(perm)))
        shape = node.inputs[0].shape
        return perm is None and shape is not None and len(shape) <= 1
