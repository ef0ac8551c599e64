"""Dynamically quantised products as products of floats, with their weights still in integers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.building import add_node
from passes.fusion.attention_ops import input_at
from passes.fusion.expand_fused_ops import expand_fused_ops
from passes.graph_io import header
from passes.operators import CONTRIB
from passes.precision.dynamic_products import DynamicProduct, IntegerWeight, find_dynamic_products
from passes.precision.lift_embeddings import lift_embeddings
from passes.precision.names import tensor_names, unique_name
from passes.precision.shared_scales import shares_scale
from passes.registry import register

#: The metadata entry with the names of the lifted weights: a JSON list, there from this pass to the next.
LIFTED_KEY = "poprt.lifted_weights"
#: How the report calls what this pass did.
LIFTED = "dynamic products lifted"

_LEAST_OPSET = 13  # DequantizeLinear has an axis


@register("lift_dynamic_int8")
class LiftDynamicInt8(GraphPass):
    """Write dynamically quantised products as MatMul or Conv by a DequantizeLinear of their integer weights.

    The float product says what the integers stand for, so that passes which look at products (packing above all) see
    one. ``lower_dynamic_int8`` makes integer products of them again, with a scale a token. Between the two the model is
    right, if slow.

    Matches the products of a DynamicQuantizeLinear in onnxruntime's forms: MatMulInteger, Cast and Mul,
    MatMulIntegerToFloat, DynamicQuantizeMatMul, and QAttention, which becomes Attention and is taken apart
    (``expand_fused_ops``). QEmbedLayerNormalization becomes lookups of integer rows, so that shapes are known past it.
    A product of two activations becomes a MatMul of floats and stays one.

    Convolutions (ConvInteger, Cast and Mul) become Conv in the same way.

    Leaves alone, with a reason: recurrences, products whose weight is computed or has other scales than one a column,
    and what lies in subgraphs and local functions. Needs opset 13.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Lift the products of the main graph."""
        result = PassResult()
        if graph.opset < _LEAST_OPSET:
            result.refuse("the model", f"lifting needs opset {_LEAST_OPSET} or newer, the model has {graph.opset}")
            return result
        result.count("embeddings taken apart", lift_embeddings(graph))
        products = find_dynamic_products(graph)
        if products:
            _Lifter(graph).lift(products)
            if any(product.node.op == "QAttention" for product in products):
                expand_fused_ops(graph)
            graph.cleanup(remove_unused_graph_inputs=False)
        result.count(LIFTED, len(products))
        _refuse_what_is_left(graph, result)
        return result


class _Lifter:
    """Writes the float products. Weights that are read several times are dequantised once."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph, self._taken = graph, tensor_names(graph)
        self._nodes: list[gs.Node] = []
        self._weights: dict[tuple[int, bytes, bytes], gs.Tensor] = {}

    def lift(self, products: list[DynamicProduct]) -> None:
        """Put the float products in the place of ``products``; what only these read is for a clean-up."""
        by_last = {id(product.last): product for product in products}
        for node in self._graph.nodes:
            product = by_last.get(id(node))
            if product is None:
                self._nodes.append(node)
            else:
                self._write(product)
        self._graph.nodes = self._nodes
        names = sorted(tensor.name for tensor in self._weights.values())
        header(self._graph).metadata[LIFTED_KEY] = json.dumps(names)

    def _write(self, product: DynamicProduct) -> None:
        outputs = list(product.last.outputs)
        product.last.outputs.clear()
        right = product.right if product.weight is None else self._weight(product.weight)
        if product.node.op == "QAttention":
            self._attention(product, right, outputs)
            return
        name = f"{outputs[0].name}_product"
        result = outputs[0] if product.bias is None else gs.Variable(unique_name(name, self._taken), np.float32)
        is_convolution = product.node.op == "ConvInteger"
        op, attrs = ("Conv", product.node.attrs) if is_convolution else ("MatMul", {})
        self._add(op, [product.activation, right], result, **attrs)
        if product.bias is not None:
            self._add("Add", [result, product.bias], outputs[0])

    def _attention(self, product: DynamicProduct, weight: gs.Tensor, outputs: list[gs.Tensor]) -> None:
        node = product.node
        mask, past = (input_at(node, index) or gs.Variable.empty() for index in (5, 8))
        bias = product.bias if product.bias is not None else gs.Variable.empty()
        inputs = [product.activation, weight, bias, mask, past]
        self._nodes.append(gs.Node("Attention", node.name, dict(node.attrs), inputs, outputs, domain=CONTRIB))

    def _weight(self, weight: IntegerWeight) -> gs.Tensor:
        """The floats that ``weight`` stands for."""
        key = weight.key
        if key not in self._weights:
            name, by_column = weight.levels.name, bool(weight.scale.ndim or weight.zero_point.ndim)
            scale, point = self._parameters(weight, by_column)
            attrs = {"axis": 1} if by_column else {}
            result = gs.Variable(unique_name(f"{name}_lifted", self._taken), np.float32, list(weight.levels.shape))
            self._add("DequantizeLinear", [weight.levels, scale, point], result, **attrs)
            self._weights[key] = result
        return self._weights[key]

    def _parameters(self, weight: IntegerWeight, by_column: bool) -> list[gs.Constant]:
        """Scale and zero point, both of the same shape."""
        shape = (weight.columns,) if by_column else ()
        return [
            gs.Constant(unique_name(f"{weight.levels.name}_{part}", self._taken), np.broadcast_to(values, shape).copy())
            for part, values in (("scale", weight.scale), ("zero_point", weight.zero_point))
        ]

    def _add(self, op: str, inputs: list[gs.Tensor], output: gs.Tensor, **attrs: Any) -> None:
        add_node(self._nodes, op, output.name, inputs, into=output, **attrs)


def lifted_weights(graph: gs.Graph) -> frozenset[str]:
    """The names of the weights that the pass has lifted in ``graph``."""
    return frozenset(json.loads(header(graph).metadata.get(LIFTED_KEY, "[]")))


def _refuse_what_is_left(graph: gs.Graph, result: PassResult) -> None:
    for scope in walk_graphs(graph):
        for node in scope.nodes:
            if shares_scale(node.op, node.domain):
                result.refuse(node, f"keeps one scale for the whole tensor: {_why_kept(node, scope is graph)}")


def _why_kept(node: gs.Node, in_main_graph: bool) -> str:
    if not in_main_graph:
        return "it lies in a subgraph or a local function"
    if node.op == "DynamicQuantizeLSTM":
        return "a recurrence with a scale a token would need another operator"
    if node.op == "DynamicQuantizeMatMul":
        return "its weight is no constant matrix with a scale a column"
    readers = dict.fromkeys(reader.op for tensor in node.outputs for reader in tensor.outputs)
    return f"what reads it ({', '.join(readers) or 'nothing'}) is no product by constants of int8"
