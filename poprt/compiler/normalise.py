"""Bring a model into a form that the engine takes: the outputs that are wanted, nodes with names, known operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.rewiring import is_op, onnx_dtype
from passes.operators import Family, members
from poprt.compiler.inference import inferred_types

#: Before opset 14 these take none of the narrow integers, though their arithmetic is plain.
_ARITHMETIC = members(Family.ARITHMETIC)
_ARITHMETIC_FIXED_IN = 14
_NARROW = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16})


class KeepOutputs(GraphPass):
    """Reduces the main graph to the outputs ``names``, in that order, and to the nodes that these need.

    Args:
        names: of outputs that the graph has.
    """

    name = "keep_outputs"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)

    def apply(self, graph: gs.Graph) -> PassResult:
        """Drop the other outputs and what they alone need."""
        result = PassResult()
        outputs, nodes = list(graph.outputs), len(graph.nodes)
        by_name = {tensor.name: tensor for tensor in outputs}
        graph.outputs = [by_name[name] for name in self.names]
        graph.cleanup(remove_unused_graph_inputs=False)
        result.count("outputs dropped", len(outputs) - len(graph.outputs))
        result.count("outputs moved", sum(a.name != b for a, b in zip(outputs, self.names, strict=False)))
        result.count("nodes dropped", nodes - len(graph.nodes))
        return result


class NameNodes(GraphPass):
    """Gives each node of the main graph that has no name one, so that the engine's errors can name it."""

    name = "name_nodes"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Name the nodes by their operator and first output."""
        result = PassResult()
        for node in graph.nodes:
            if not node.name and node.outputs:
                node.name = f"{node.op}:{node.outputs[0].name}"
                result.count("nodes named")
        return result


class WidenNarrowArithmetic(GraphPass):
    """Computes 8- and 16-bit Add, Sub, Mul and Div in int32 where the opset has them for wide integers only.

    Casting back keeps the low bits, as the narrow operator would. Works on the main graph and its subgraphs; local
    functions, whose tensors have no declared types, are left alone.
    """

    name = "widen_narrow_arithmetic"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Put casts around the nodes; see the class."""
        result = PassResult()
        scopes = list(walk_graphs(graph, functions=False))
        if graph.opset >= _ARITHMETIC_FIXED_IN or not any(is_op(n, *_ARITHMETIC) for s in scopes for n in s.nodes):
            return result
        types = {name: kind.elem_type for name, kind in inferred_types(graph).items()}
        for scope in scopes:
            nodes = [widened for node in scope.nodes for widened in _in_int32(node, types)]
            result.count("nodes widened", (len(nodes) - len(scope.nodes)) // 3)
            scope.nodes = nodes
        return result


def _in_int32(node: gs.Node, types: Mapping[str, int]) -> Iterator[gs.Node]:
    tensors = [*node.inputs, *node.outputs]
    kinds = (onnx_dtype(tensor) or types.get(tensor.name) for tensor in tensors)
    kind = next(filter(None, kinds), 0)
    if not is_op(node, *_ARITHMETIC) or kind not in _NARROW:
        yield node
        return
    result = node.outputs[0]
    label = node.name or result.name
    for index, tensor in enumerate(list(node.inputs)):
        wide = gs.Variable(f"{result.name}:wide{index}", np.int32)
        yield gs.Node("Cast", f"{label}:widen{index}", {"to": onnx.TensorProto.INT32}, [tensor], [wide])
        node.inputs[index] = wide
    wide = gs.Variable(f"{result.name}:wide", np.int32)
    node.outputs[0] = wide
    yield node
    yield gs.Node("Cast", f"{label}:narrow", {"to": kind}, [wide], [result])
