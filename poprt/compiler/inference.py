"""What onnx infers of the tensors of a graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from passes.extents import declared_extent
from passes.graph_io import export_weightless
from passes.ops import DOMAIN
from passes.shapes.contents import LARGEST_VALUE_READ
from passes.shapes.packed import is_unpacked_inside
from passes.shapes.shape_inference import declared_names, known_extents
from passes.shapes.symbolic import infer_symbolic_shapes
from poprt.engine.plain import plain_session
from poprt.engine.providers import default_providers
from poprt.utils import element_type_of

logger = logging.getLogger("poprt")


def inferred_types(graph: gs.Graph) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of each tensor of the main graph, blind to what the graph declares of those that it computes."""
    blind = _blind(graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(blind).graph
    except onnx.shape_inference.InferenceError as error:
        logger.debug("no types inferred, the engine will say what is wrong: %s", error)
        return {}
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {item.name: item.type.tensor_type for item in values if item.type.HasField("tensor_type")}


def engine_types(graph: gs.Graph) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of each output as the engine infers them, which knows more operators and looks into functions."""
    try:
        session = plain_session(_blind(graph).SerializeToString(), optimise=False, providers=default_providers())
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        logger.debug("no types asked of the engine, which refuses the graph without its weights: %s", error)
        return {}
    types = {}
    for item in session.get_outputs():
        element = element_type_of(item.type)
        if element:
            types[item.name] = helper.make_tensor_type_proto(element, item.shape).tensor_type
    return types


def unpacked_types(graph: gs.Graph) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of each output of a graph that a script packed by hand: it may have left what was declared before.

    Outputs [3, 2], of rows, behind an Unpack of 7 samples -> [7, 2]. None where there is no Unpack, or it is ours.
    """
    if is_unpacked_inside(graph) or not any(node.op == "Unpack" and node.domain == DOMAIN for node in graph.nodes):
        return {}
    declared = [tensor.shape for tensor in graph.outputs]
    for tensor in graph.outputs:
        tensor.shape = None
    inferred = infer_symbolic_shapes(graph)
    shapes = known_extents(inferred, declared_names(graph))
    for tensor, shape in zip(graph.outputs, declared, strict=True):
        tensor.shape = shape
    return {
        tensor.name: helper.make_tensor_type_proto(inferred.dtypes.get(tensor.name, 0), shapes[tensor.name]).tensor_type
        for tensor in graph.outputs
        if tensor.name in shapes
    }


def _blind(graph: gs.Graph) -> onnx.ModelProto:
    """The graph without its weights and without what it declares of its outputs."""
    blind = export_weightless(graph, LARGEST_VALUE_READ)
    for item in blind.graph.output:
        item.ClearField("type")
    return blind


def extents_of(kind: onnx.TypeProto.Tensor) -> Sequence[int | str | None]:
    """The shape of ``kind`` as graphsurgeon holds one: a number, a name, or None where nothing is known."""
    return [declared_extent(dim) for dim in kind.shape.dim]
