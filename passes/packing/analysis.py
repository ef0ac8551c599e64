"""From a graph to its token axes: infer symbolic shapes, take the branches they decide, fold what they know."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.packing.axes import AxisMap
from passes.packing.branches import resolve_branches
from passes.packing.geometry import Geometry
from passes.packing.known_extents import fold_known_extents
from passes.shapes.symbolic import infer_symbolic_shapes


def map_axes(graph: gs.Graph, geometry: Geometry) -> AxisMap:
    """Where each tensor of ``graph`` keeps its tokens. Shape arithmetic of known result becomes constants."""
    shapes = infer_symbolic_shapes(graph, geometry.symbolic_shapes())
    while resolve_branches(graph, shapes):
        graph.toposort(mode="nodes")
        shapes = infer_symbolic_shapes(graph, geometry.symbolic_shapes())
    fold_known_extents(graph, shapes)
    return AxisMap(graph, shapes)
