"""What the shape passes must know about packed models."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.packed_model import PackedModel


def is_unpacked_inside(graph: gs.Graph) -> bool:
    """Whether the graph was packed with Unpack, so that what flows inside has other extents than its inputs declare.

    Raises:
        RewriteError: the graph's metadata of its packing are damaged.
    """
    packed = PackedModel.read(graph)
    return packed is not None and packed.unpacks_inside
