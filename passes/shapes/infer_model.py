"""Shape inference as scripts call it: a model in, a model with its shapes out."""

from __future__ import annotations

import onnx

from passes.building import import_domain
from passes.graph_io import export_graph, import_graph
from passes.ops import DOMAIN, VERSION
from passes.shapes.shape_inference import ShapeInference, merge_extents

__all__ = ["infer_shapes"]


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the shapes and types of its tensors, as far as they can be inferred.

    What the model says of tensors inside stays (drop it with ``clean_info`` where it is wrong); what it says of its
    outputs is replaced by what is inferred. Operators that ONNX does not know are asked of the functions registered by
    ``register_shape_func``.
    """
    graph = import_graph(model)
    if any(node.domain == DOMAIN for node in graph.nodes):  # a script may leave the import to the compiler
        import_domain(graph, DOMAIN, VERSION)
    declared = {tensor.name: tensor.shape for tensor in graph.outputs if tensor.inputs}
    for tensor in graph.outputs:
        if tensor.name in declared:
            tensor.shape = None
    ShapeInference().apply(graph)
    for tensor in graph.outputs:
        said = declared.get(tensor.name)
        if said is not None:
            tensor.shape = merge_extents(tensor.shape, said)
    return export_graph(graph)
