"""What the shape passes must know about packed models."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph_io import header
from passes.packing.metadata import METADATA_KEY, UNPACK_INFO


def is_packed(graph: gs.Graph) -> bool:
    """Whether the graph was packed, so that what flows inside has other extents than its inputs declare."""
    return METADATA_KEY in header(graph).metadata


def has_declared_packs(graph: gs.Graph) -> bool:
    """Whether a packed graph declares fixed rows or columns: what is inferred from those holds for full packs only."""
    inputs = [tensor for tensor in graph.inputs if tensor.name != UNPACK_INFO]
    return is_packed(graph) and any(isinstance(n, int) for tensor in inputs for n in (tensor.shape or ())[:2])
