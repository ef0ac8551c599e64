"""What the shape passes must know about packed models."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph_io import header
from passes.packed_model import METADATA_KEY, packing_object


def is_packed(graph: gs.Graph) -> bool:
    """Whether the graph was packed, in either style."""
    return METADATA_KEY in header(graph).metadata


def is_unpacked_inside(graph: gs.Graph) -> bool:
    """Whether the graph was packed with Unpack, so that what flows inside has other extents than its inputs declare.

    Where samples only share rows (AttentionMask without a final Unpack) every tensor has the declared extents.
    """
    if not is_packed(graph):
        return False
    packing = packing_object(header(graph).metadata[METADATA_KEY])
    return packing.get("style") != "attention_mask" or bool(packing.get("unpack_info"))
