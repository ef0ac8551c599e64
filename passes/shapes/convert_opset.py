"""Raise the version of the default operator set."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.errors import RewriteError
from passes.graph_io import export_weightless, import_graph
from passes.registry import register
from passes.shapes.contents import LARGEST_VALUE_READ
from passes.shapes.dtypes import find_schema

_OURS = "ai.graphcore"


@register("convert_opset")
class ConvertOpset(GraphPass):
    """Bring the model to opset ``target`` of the default domain at least; a newer model stays as it is.

    onnx's version converter does the work, on a copy without the large weights. Tensors keep their names, nodes of
    other domains and local functions are left alone. A local function that imports an older opset is only marked
    with the new one, which is right where none of its operators changed in between; else it is an error.

    Covers the main graph and its subgraphs.

    Args:
        target: the opset wanted.
    """

    def __init__(self, target: int) -> None:
        super().__init__()
        self.target = int(target)
        newest = onnx.defs.onnx_opset_version()
        if not 1 <= self.target <= newest:
            raise RewriteError(f"opset {self.target} is not known to the installed onnx, which knows 1 to {newest}")

    def apply(self, graph: gs.Graph) -> PassResult:
        """Convert the graph in place.

        Raises:
            RewriteError: the converter knows no way for some operator.
        """
        result = PassResult()
        if graph.opset >= self.target:
            return result
        self._check_functions(graph)
        old, functions = graph.opset, list(graph.functions)
        converted = self._converted(graph)
        for name in ("nodes", "inputs", "outputs", "opset", "import_domains"):
            setattr(graph, name, getattr(converted, name))
        self._raise_functions(functions)
        graph.functions = functions
        for scope in walk_graphs(graph, functions=False):
            scope._functions = graph._functions
        result.count("opset versions raised", self.target - old)
        return result

    def _converted(self, graph: gs.Graph) -> gs.Graph:
        model = export_weightless(graph, LARGEST_VALUE_READ)
        del model.functions[:]
        originals = {tensor.name: tensor for tensor in graph.tensors().values()}
        declared = {tensor.name for tensor in graph.inputs}
        try:
            model = onnx.version_converter.convert_version(model, self.target)
        except Exception as error:  # the converter raises RuntimeError, ConvertError and others, by onnx version
            raise RewriteError(
                f"onnx cannot convert this model from opset {graph.opset} to {self.target}: {error}"
                f"{_unknown_operators(graph)}; export it again with a newer opset"
            ) from error
        converted = import_graph(model)
        lost = [name for name in _produced(graph) if name not in converted.tensors()]
        if lost:
            raise RewriteError(f"onnx's version converter lost tensor {lost[0]!r}; export with opset {self.target}")
        for name, tensor in converted.tensors().items():
            before = originals.get(name)
            if isinstance(before, gs.Constant) and isinstance(tensor, gs.Variable):
                tensor.to_constant(before._values)
                tensor.data_location = before.data_location
            elif isinstance(before, gs.Variable) and isinstance(tensor, gs.Variable):
                tensor.dtype, tensor.shape, tensor.type = before.dtype, before.shape, before.type
        converted.inputs = [tensor for tensor in converted.inputs if tensor.name in declared]
        return converted

    def _check_functions(self, graph: gs.Graph) -> None:
        for function in graph.functions:
            if function.domain == _OURS or function.opset >= self.target:
                continue
            for scope in walk_graphs(function, functions=False):
                for node in scope.nodes:
                    old = find_schema(node, {"": function.opset})
                    new = find_schema(node, {"": self.target})
                    if not node.domain and (old is None or new is None or _interface(old) != _interface(new)):
                        raise RewriteError(
                            f"local function {function.domain}.{function.name} uses {node.op} of opset "
                            f"{function.opset}, which changed until {self.target}; inline the function first"
                        )

    def _raise_functions(self, functions: list[gs.Function]) -> None:
        for function in functions:
            if function.domain == _OURS or function.opset >= self.target:
                continue
            domains = [item for item in function.import_domains or () if item.domain not in ("", "ai.onnx")]
            function.import_domains = [onnx.helper.make_opsetid("", self.target), *domains]
            for scope in walk_graphs(function, functions=False):
                scope.opset = self.target


def _interface(schema: onnx.defs.OpSchema) -> tuple[object, ...]:
    """What a node of this operator relies on; two versions that differ only in the types they allow are equal."""
    attributes = {name: attribute.default_value.SerializeToString() for name, attribute in schema.attributes.items()}
    return len(schema.inputs), len(schema.outputs), tuple(sorted(attributes.items()))


def _produced(graph: gs.Graph) -> list[str]:
    """The names of the outputs of the main graph's nodes that anything reads."""
    outputs = {id(tensor) for tensor in graph.outputs}
    read = {id(t) for scope in walk_graphs(graph, functions=False) for node in scope.nodes for t in node.inputs}
    return [t.name for node in graph.nodes for t in node.outputs if t.name and (id(t) in read or id(t) in outputs)]


def _unknown_operators(graph: gs.Graph) -> str:
    """What to add to an error that may not name them: the standard operators that onnx does not know."""
    nodes = [node for scope in walk_graphs(graph, functions=False) for node in scope.nodes if not node.domain]
    unknown = sorted({node.op for node in nodes if not onnx.defs.has(node.op)})
    return f" (onnx knows no operator {', '.join(unknown)})" if unknown else ""
