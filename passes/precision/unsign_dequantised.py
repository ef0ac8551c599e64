"""Weights of QDQ models on CPUs that have no dot products of 8-bit numbers."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, graph_output_names
from passes.precision.sign_flip import Weights, make_unsigned, signed_values, unsigned
from passes.shapes.dtypes import has_dtype


class UnsignDequantised(GraphPass):
    """Stores the int8 weights that DequantizeLinear reads as uint8, with zero points that are larger by 128.

    The numbers stay the same. The engine makes an integer product of a product between DequantizeLinear and
    QuantizeLinear, and on such a CPU one of uint8 by int8 may overflow. Does nothing to a weight that anything else
    reads, and in subgraphs.

    Args:
        weights: the tensors that are kept outside of the graph, by name; changed with it.
    """

    name = "unsign_dequantised"

    def __init__(self, weights: Weights | None = None) -> None:
        super().__init__()
        self.weights = {} if weights is None else weights

    def apply(self, graph: gs.Graph) -> PassResult:
        """Change the weights, and give each DequantizeLinear zero points of its own."""
        result = PassResult()
        outputs = graph_output_names(graph)
        main = {id(node) for node in graph.nodes}
        weights = {node.inputs[0].name: node.inputs[0] for node in graph.nodes if self._reads_a_weight(node)}
        for tensor in weights.values():
            readers = list(tensor.outputs)
            is_known = all(id(node) in main and self._reads_a_weight(node, tensor) for node in readers)
            if tensor.name in outputs or not is_known:
                continue
            for node in readers:
                self._shift_zero_point(node)
            make_unsigned(tensor, self.weights)
            result.count("weights made unsigned")
        return result

    def _reads_a_weight(self, node: gs.Node, weight: gs.Tensor | None = None) -> bool:
        """Whether ``node`` dequantises an int8 constant (``weight``, where it is given) by constant zero points."""
        if node.op != "DequantizeLinear" or node.domain or not isinstance(node.inputs[0], gs.Constant):
            return False
        if weight is not None and (node.inputs[0] is not weight or any(item is weight for item in node.inputs[1:])):
            return False
        constant = all(isinstance(item, gs.Constant) for item in node.inputs[1:] if not item.is_empty())
        return constant and bool(has_dtype(node.inputs[0], np.int8))

    def _shift_zero_point(self, node: gs.Node) -> None:
        point = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        values = np.zeros(node.inputs[1].shape, np.int8) if point is None else signed_values(point, self.weights)
        shifted = gs.Constant(f"{node.outputs[0].name}_zero_point_unsigned", unsigned(values))
        if len(node.inputs) > 2:
            node.inputs[2] = shifted
        else:
            node.inputs.append(shifted)
