"""What the shape passes must know about packed models."""

from __future__ import annotations

import json

import onnx_graphsurgeon as gs

from passes.graph_io import header
from passes.packing.metadata import METADATA_KEY, UNPACK_INFO


def is_packed(graph: gs.Graph) -> bool:
    """Whether the graph was packed, in either style."""
    return METADATA_KEY in header(graph).metadata


def crosses_rows(graph: gs.Graph) -> bool:
    """Whether the graph was packed by Unpack and Repack, so that what flows inside has other extents than its inputs
    declare. Where samples stay within rows (AttentionMask) every tensor has the declared extents.
    """
    return is_packed(graph) and json.loads(header(graph).metadata[METADATA_KEY]).get("style") != "attention_mask"


def has_declared_packs(graph: gs.Graph) -> bool:
    """Whether declared rows or columns are fixed where samples cross rows: what follows holds for full packs only."""
    inputs = [tensor for tensor in graph.inputs if tensor.name != UNPACK_INFO]
    return crosses_rows(graph) and any(isinstance(n, int) for tensor in inputs for n in (tensor.shape or ())[:2])
