"""Masks of one large number, in OpenVINO's graph."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, graph_output_names
from passes.building import add_node
from passes.cleanup.rewiring import is_op, replace_uses
from passes.placeholders import is_placeholder
from passes.precision.names import tensor_names, unique_name

#: What is added beside a product by a smaller number keeps enough digits.
_LARGE = 1e3
_LEAST = np.array(-1e30, np.float32)


class KeepMaskProducts(GraphPass):
    """Puts a Max behind a product by a large negative constant, which changes nothing and keeps it whole.

    OpenVINO takes such a factor out of a sum: where the bias is constant, in a graph of fixed shape, it makes

        bias + (1 - mask) * -10000      of it      ((1 + bias / -10000) - mask) * -10000

    and the 1 takes the digits of the bias; of -3.4e38 it takes all of them.
    """

    name = "keep_mask_products"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Put them in the main graph, in place."""
        result, outputs, taken = PassResult(), graph_output_names(graph), tensor_names(graph)
        least = gs.Constant(unique_name("poprt_least", taken), _LEAST)
        for node in [node for node in graph.nodes if is_op(node, "Mul") and any(map(_is_large, node.inputs))]:
            product = node.outputs[0]
            if product.name in outputs:
                continue
            nodes: list[gs.Node] = []
            kept = add_node(nodes, "Max", unique_name(f"{product.name}_kept", taken), [product, least], np.float32)
            replace_uses(product, kept)
            nodes[0].inputs[0] = product
            graph.nodes.insert(graph.nodes.index(node) + 1, nodes[0])
            result.count("products kept")
        return result


def _is_large(tensor: gs.Tensor) -> bool:
    return (
        isinstance(tensor, gs.Constant)
        and not is_placeholder(tensor)
        and tensor.dtype == np.float32
        and tensor.values.size == 1
        and bool(tensor.values.reshape(-1)[0] <= -_LARGE)
    )
