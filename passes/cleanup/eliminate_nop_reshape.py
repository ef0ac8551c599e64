"""Remove reshapes that keep the shape."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from passes.cleanup.nop_nodes import NopElimination
from passes.cleanup.rewiring import is_op
from passes.registry import register


@register("eliminate_nop_reshape")
class EliminateNopReshape(NopElimination):
    """Removes ``Reshape`` where the result provably has the input's shape.

    That is so when the target is a constant that repeats the input's extents or says 0 (keep) for them, with at most
    one extent left to tell: the number of elements settles that one. It does nothing where the rank is not known.
    """

    what = "reshapes removed"

    def is_nop(self, node: gs.Node) -> bool:
        """Whether the reshape keeps the shape."""
        if not is_op(node, "Reshape") or node.inputs[0].shape is None:
            return False
        target = node.inputs[1]
        if not isinstance(target, gs.Constant):
            return False
        keeps_zero = not node.attrs.get("allowzero", 0)
        return _keeps(list(node.inputs[0].shape), [int(extent) for extent in target.values], keeps_zero)


def _keeps(shape: Sequence[int | str | None], target: Sequence[int], keeps_zero: bool) -> bool:
    if len(shape) != len(target):
        return False
    same = [
        (asked == 0 and keeps_zero) or (isinstance(extent, int) and extent == asked)
        for extent, asked in zip(shape, target, strict=True)
    ]
    others_known = all(extent != 0 for extent in shape)  # with an empty axis the element count settles nothing
    return all(same) or (same.count(False) == 1 and others_known)
