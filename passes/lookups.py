"""Table lookups: Gather, and onnxruntime's Gather of rows that are quantised in blocks."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.operators import CONTRIB

#: Domain and operator -> the attribute that says along which axis of the table (input 0) the indices (input 1) pick.
_AXIS = {("", "Gather"): "axis", (CONTRIB, "GatherBlockQuantized"): "gather_axis"}


def is_lookup(node: gs.Node) -> bool:
    """Whether the node picks entries of its first input by the indices in its second."""
    return _key(node) in _AXIS


def lookup_axis(node: gs.Node) -> int:
    """The axis of the table along which a lookup picks.

    Raises:
        KeyError: the node is no lookup; whoever asked was wrong.
    """
    return int(node.attrs.get(_AXIS[_key(node)], 0))


def _key(node: gs.Node) -> tuple[str, str]:
    return ("" if node.domain in (None, "ai.onnx") else node.domain, node.op)
