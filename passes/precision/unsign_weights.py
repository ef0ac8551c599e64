"""Integer products on CPUs that have no dot products of 8-bit numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, graph_output_names
from passes.placeholders import is_placeholder
from passes.precision.sign_flip import Weights, make_unsigned, unsigned
from passes.shapes.dtypes import has_dtype

_MIDDLE = "poprt_int8_weight_zero_point"


class UnsignWeights(GraphPass):
    """Stores the int8 weights of the main graph's MatMulInteger as uint8 with zero point 128, or with theirs plus 128.

    The numbers stay the same. A CPU without 8-bit dot products multiplies uint8 by uint8 exactly, if more slowly; by
    int8 it adds pairs of products in 16 bits, which may overflow. A weight that anything else reads is left alone.

    Args:
        weights: the tensors that are kept outside of the graph, by name; changed with it.
    """

    name = "unsign_weights"

    def __init__(self, weights: Weights | None = None) -> None:
        super().__init__()
        self.weights = {} if weights is None else weights

    def apply(self, graph: gs.Graph) -> PassResult:
        """Change the weights and give their products the zero point."""
        result = PassResult()
        products = [node for node in graph.nodes if node.op == "MatMulInteger" and _has_known_point(node)]
        reads = Counter(node.inputs[1].name for node in products)
        outputs = graph_output_names(graph)
        tensors = {node.inputs[1].name: node.inputs[1] for node in products}
        changed = {
            name
            for name, tensor in tensors.items()
            if isinstance(tensor, gs.Constant) and has_dtype(tensor, np.int8)
            if reads[name] == len(tensor.outputs) and name not in outputs
        }
        for name in changed:
            make_unsigned(tensors[name], self.weights)
        middle = gs.Constant(_MIDDLE, np.array(128, np.uint8))
        points: dict[int, gs.Constant] = {}
        for node in products:
            if node.inputs[1].name not in changed:
                continue
            if len(node.inputs) == 3:
                node.inputs.append(middle)
            else:
                node.inputs[3] = _unsigned_point(node.inputs[3], points)
        result.count("weights made unsigned", len(changed))
        return result


def _has_known_point(product: gs.Node) -> bool:
    """Whether the weight of a product has no zero point, or a small constant one."""
    if len(product.inputs) == 3:
        return True
    point = product.inputs[3] if len(product.inputs) == 4 else None
    return isinstance(point, gs.Constant) and not is_placeholder(point) and has_dtype(point, np.int8)


def _unsigned_point(signed: gs.Constant, points: dict[int, gs.Constant]) -> gs.Constant:
    """The zero point of an unsigned weight; ``points`` are those made before, by the id of the signed one."""
    if id(signed) not in points:
        points[id(signed)] = gs.Constant(f"{signed.name}_unsigned", unsigned(signed.values))
    return points[id(signed)]
