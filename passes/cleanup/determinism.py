"""Which nodes give the same result each time."""

import onnx_graphsurgeon as gs

from passes.base import subgraphs
from passes.operators import Family, members

_RANDOM = members(Family.RANDOM)


def is_deterministic(node: gs.Node) -> bool:
    """Whether ``node`` is a standard operator that returns the same outputs for the same inputs.

    Nodes with subgraphs and training-mode Dropout count as not so; operators of other domains may do anything.
    """
    if (node.domain or "") not in ("", "ai.onnx") or node.op in _RANDOM or any(True for _ in subgraphs(node)):
        return False
    training = node.op == "Dropout" and len(node.inputs) > 2 and not node.inputs[2].is_empty()
    return not training
