"""What onnx infers of the tensors of a graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from passes.extents import declared_extent
from passes.graph_io import export_weightless
from passes.shapes.contents import LARGEST_VALUE_READ

logger = logging.getLogger("poprt")


def inferred_types(graph: gs.Graph) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of each tensor of the main graph, blind to what the graph declares of those that it computes."""
    blind = export_weightless(graph, LARGEST_VALUE_READ)
    for item in blind.graph.output:
        item.ClearField("type")
    try:
        inferred = onnx.shape_inference.infer_shapes(blind).graph
    except onnx.shape_inference.InferenceError as error:
        logger.debug("no types inferred, the engine will say what is wrong: %s", error)
        return {}
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {item.name: item.type.tensor_type for item in values if item.type.HasField("tensor_type")}


def extents_of(kind: onnx.TypeProto.Tensor) -> Sequence[int | str | None]:
    """The shape of ``kind`` as graphsurgeon holds one: a number, a name, or None where nothing is known."""
    return [declared_extent(dim) for dim in kind.shape.dim]
