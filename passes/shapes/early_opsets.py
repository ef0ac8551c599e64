"""Raise models older than opset 7 to it, by onnx's own version converter.

Opset 7 changed how all operators broadcast. Few such models are left, and the converter knows them; what came later
it damages (``passes/shapes/opset_adapters.py`` does that part).
"""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_graphsurgeon as gs

from passes.base import walk_graphs
from passes.errors import RewriteError
from passes.graph_io import export_weightless, import_graph
from passes.shapes.contents import LARGEST_VALUE_READ

FIRST = 7


def raise_to_first(graph: gs.Graph) -> None:
    """Bring ``graph`` to opset 7 in place; a copy without the large weights is what is converted.

    Local functions stay as they are, and tensors keep their names.

    Raises:
        RewriteError: the converter knows no way for some operator, or loses a tensor.
    """
    functions = list(graph.functions)
    converted = _converted(graph)
    for name in ("nodes", "inputs", "outputs", "opset", "import_domains"):
        setattr(graph, name, getattr(converted, name))
    graph.functions = functions
    for scope in walk_graphs(graph, functions=False):
        scope._functions = graph._functions


def _converted(graph: gs.Graph) -> gs.Graph:
    model = export_weightless(graph, LARGEST_VALUE_READ)
    del model.functions[:]
    tensors = {tensor.name: tensor for tensor in graph.tensors().values()}
    declared = {tensor.name for tensor in graph.inputs}
    try:
        model = onnx.version_converter.convert_version(model, FIRST)
    except Exception as error:  # the converter raises RuntimeError, ConvertError and others, by onnx version
        raise RewriteError(
            f"onnx cannot convert this model from opset {graph.opset} to {FIRST}: {error}; "
            "export it again with a newer opset"
        ) from error
    converted = import_graph(model)
    lost = [name for name in _produced(graph) if name not in converted.tensors()]
    if lost:
        raise RewriteError(f"onnx's version converter lost tensor {lost[0]!r}; export the model with a newer opset")
    for name, tensor in converted.tensors().items():
        _restore(tensor, tensors.get(name))
    converted.inputs = [tensor for tensor in converted.inputs if tensor.name in declared]
    return converted


def _restore(tensor: gs.Tensor, before: gs.Tensor | None) -> None:
    """Give ``tensor`` back its values, or its type and shape."""
    if isinstance(before, gs.Constant) and isinstance(tensor, gs.Variable):
        tensor.to_constant(before._values)
        tensor.data_location = before.data_location
    elif isinstance(before, gs.Variable) and isinstance(tensor, gs.Variable):
        tensor.dtype, tensor.shape, tensor.type = before.dtype, before.shape, before.type


def _produced(graph: gs.Graph) -> list[str]:
    """The names of the outputs of the main graph's nodes that anything reads."""
    outputs = {id(tensor) for tensor in graph.outputs}
    read = {id(t) for scope in walk_graphs(graph, functions=False) for node in scope.nodes for t in node.inputs}
    return [t.name for node in graph.nodes for t in node.outputs if t.name and (id(t) in read or id(t) in outputs)]
