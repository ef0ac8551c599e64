"""Turn Constant nodes into initializers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.rewiring import drop_nodes, is_op
from passes.registry import register

#: Why a constant is left where it is.
STAYS = "a sparse constant, or one of strings that are no UTF-8, stays a node"


@register("extract_constant_to_initializer")
class ExtractConstantToInitializer(GraphPass):
    """Makes an initializer of each ``Constant`` node, in the main graph and subgraphs, without copying its data.

    A constant that is itself a graph output stays a node. Local functions are left alone: they have no initializers.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Replace the nodes; see the class."""
        result = PassResult()
        for scope in walk_graphs(graph, functions=False):
            extracted = []
            for node in scope.nodes:
                if not is_op(node, "Constant"):
                    continue
                tensor = node.outputs[0]
                values = constant_values(node)
                if values is None:
                    result.refuse(node, STAYS)
                elif tensor in scope.outputs:
                    result.refuse(node, f"{tensor.name!r} is a graph output")
                else:
                    node.outputs.clear()
                    tensor.to_constant(values)
                    extracted.append(node)
            drop_nodes(scope, extracted)
            result.count("constants extracted", len(extracted))
        return result


def constant_values(node: gs.Node) -> Any | None:
    """The values of a ``Constant`` node as gs.Constant takes them (an array or not yet loaded).

    None for a sparse constant, and for strings that are no UTF-8: numpy could not hold them.
    """
    (attribute, value), *_ = node.attrs.items()
    if attribute == "value":
        return value._values if isinstance(value, gs.Constant) else None
    if attribute in ("value_int", "value_ints"):
        return np.array(value, dtype=np.int64)
    if attribute in ("value_float", "value_floats"):
        return np.array(value, dtype=np.float32)
    if attribute in ("value_string", "value_strings"):
        words = [value] if attribute == "value_string" else list(value)
        if any(isinstance(word, bytes) for word in words):
            return None
        dims = [] if attribute == "value_string" else [len(words)]
        return LazyValues(onnx.helper.make_tensor("", onnx.TensorProto.STRING, dims, words))
    return None
