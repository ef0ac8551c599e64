"""Take apart the fused operators that hide matrix products, table lookups and masks inside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.base import GraphPass, PassResult
from passes.fusion.attention_ops import input_at
from passes.fusion.expand_products import expand_convolution, expand_gemm, expand_matmul
from passes.fusion.expand_quantised import expand_quantised
from passes.node_builder import NodeBuilder
from passes.operators import CONTRIB
from passes.refusal import Refusal, because
from passes.registry import register
from passes.shapes.symbolic import SymbolicShapes, infer_symbolic_shapes, numpy_dtype

_EMBED_EPSILON = 1e-12
_MINIMUM_OPSET = 13  # Split and ReduceSum take sizes and axes as inputs
#: Attributes that MultiHeadAttention understands as com.microsoft's Attention does.
_SHARED = ("num_heads", "scale", "unidirectional", "mask_filter_value")


@register("expand_fused_ops")
class ExpandFusedOps(GraphPass):
    """Writes com.microsoft's fused encoder operators as the operators they were fused from.

    - ``EmbedLayerNormalization`` becomes Gathers, Adds and a LayerNormalization; its ``mask_index`` becomes a
      ReduceSum over the mask.
    - ``Attention`` becomes one MatMul, an Add, a Split and a ``MultiHeadAttention``.
    - ``MultiHeadAttention`` with a constant bias becomes Adds and one without.
    - ``FusedMatMul`` becomes Transposes, a MatMul and a Mul; ``FusedGemm`` and ``FusedConv`` the product and its
      activation.
    - ``QLinearMatMul``, ``QLinearAdd`` and the like become what they compute, between DequantizeLinear and
      QuantizeLinear.

    Leaves alone, with a reason: an operator with past or present keys, with rotary embedding, or with a bias or a mask
    in a layout that the result cannot take. Works on the main graph; subgraphs and functions are left alone.
    LayerNormalization is standard since opset 17; onnxruntime runs it at any opset.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Expand; see the class."""
        graph.toposort(mode="nodes")
        return expand_fused_ops(graph)


def expand_fused_ops(graph: gs.Graph, input_shapes: Mapping[str, Sequence[int | str]] | None = None) -> PassResult:
    """Expand ``graph`` in place; its nodes must be in topological order, and will be again.

    Args:
        graph: the main graph.
        input_shapes: shapes to assume for some inputs instead of the declared ones; a string is a symbol.
    """
    result = PassResult()
    fused_nodes = [node for node in graph.nodes if (node.domain or "", node.op) in _EXPANDED]
    if fused_nodes and graph.opset < _MINIMUM_OPSET:
        for node in fused_nodes:
            result.refuse(node, f"what replaces it needs opset {_MINIMUM_OPSET}, the model has {graph.opset}")
    if not fused_nodes or graph.opset < _MINIMUM_OPSET:
        return result
    shapes = infer_symbolic_shapes(graph, input_shapes)
    for node in fused_nodes:
        _EXPANDED[node.domain or "", node.op](graph, node, shapes, result)
    if result.modified:
        graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
    return result


class _Embedding:
    """Expands one EmbedLayerNormalization."""

    def __init__(self, graph: gs.Graph, node: gs.Node, shapes: SymbolicShapes) -> None:
        self._make, self._node, self._shapes = NodeBuilder(graph.nodes, node), node, shapes
        inputs = [input_at(node, index) for index in range(9)]
        self._ids, self._segments, self._words, self._positions, self._types = inputs[:5]
        self._scale, self._shift, self._mask, self._position_ids = inputs[5:]
        self._dtype = numpy_dtype(self._words, shapes)

    def expand(self) -> None:
        node = self._node
        outputs = [*node.outputs, *[gs.Variable.empty()] * (3 - len(node.outputs))]
        node.outputs.clear()
        summed = self._sum(outputs[2] if outputs[2].name else None)
        affine = [tensor for tensor in (summed, self._scale, self._shift) if tensor is not None]
        epsilon = float(node.attrs.get("epsilon", _EMBED_EPSILON))
        self._make.add("LayerNormalization", "normalised", affine, into=outputs[0], axis=-1, epsilon=epsilon)
        if outputs[1].name:
            self._count_mask(outputs[1])
        node.inputs.clear()

    def _sum(self, into: gs.Tensor | None) -> gs.Tensor:
        words = self._look_up(self._words, self._ids, "words")
        if self._types is not None and self._segments is not None:
            types = self._look_up(self._types, self._segments, "types")
            words = self._make.add("Add", "words_and_types", [words, types], self._dtype)
        places = self._position_ids if self._position_ids is not None else self._counted_places()
        positions = self._look_up(self._positions, places, "positions")
        return self._make.add("Add", "embedding_sum", [words, positions], self._dtype, into)

    def _look_up(self, table: gs.Tensor | None, indices: gs.Tensor | None, what: str) -> gs.Tensor:
        assert table is not None
        assert indices is not None
        return self._make.add("Gather", what, [table, indices], self._dtype, axis=0)

    def _counted_places(self) -> gs.Tensor:
        """int64 [1, seq]: 0, 1, 2, ..."""
        assert self._positions is not None
        make = self._make
        shape = make.add("Shape", "ids_shape", [self._ids], np.int64)
        one, two = make.constant("one", [1]), make.constant("two", [2])
        seq = make.add("Slice", "seq", [shape, one, two], np.int64)
        every = make.constant("every_place", np.arange(int(self._shapes[self._positions.name][0]))[None])
        return make.add("Slice", "places", [every, make.constant("zero", [0]), seq, one], np.int64)

    def _count_mask(self, into: gs.Tensor) -> None:
        """int32 [batch]: how many places of the mask are 1; 0 without a mask, as the fused operator gives."""
        make, mask = self._make, self._mask
        if mask is None:
            mask = make.add("Sub", "no_mask", [self._ids, self._ids], numpy_dtype(self._ids, self._shapes))
        one = make.constant("mask_one", 1, numpy_dtype(mask, self._shapes))
        ones = make.add("Equal", "is_unmasked", [mask, one], np.bool_)
        numbers = make.add("Cast", "unmasked", [ones], np.int32, to=onnx.TensorProto.INT32)
        axes = make.constant("mask_axis", [1])
        make.add("ReduceSum", "mask_index", [numbers, axes], into=into, keepdims=0)


def _expand_embedding(graph: gs.Graph, node: gs.Node, shapes: SymbolicShapes, result: PassResult) -> None:
    places = shapes.get(node.inputs[3].name)
    if places is None or not isinstance(places[0], (int, sympy.Integer)):
        result.refuse(node, f"the shape of its position table {node.inputs[3].name!r} is unknown")
        return
    _Embedding(graph, node, shapes).expand()
    result.count("embeddings expanded")


def _expand_attention(graph: gs.Graph, node: gs.Node, shapes: SymbolicShapes, result: PassResult) -> None:
    refusal = _why_whole(node, shapes)
    if refusal is not None:
        result.refusals.append(refusal.at(node))
        return
    make, prefix = NodeBuilder(graph.nodes, node), node.name or node.outputs[0].name
    data, weight, bias = node.inputs[0], node.inputs[1], input_at(node, 2)
    dtype = numpy_dtype(weight, shapes)
    projected = make.add("MatMul", "projected", [data, weight], dtype)
    if bias is not None:
        projected = make.add("Add", "projected_biased", [projected, bias], dtype)
    sizes = node.attrs.get("qkv_hidden_sizes") or [int(shapes[weight.name][1]) // 3] * 3
    parts = [gs.Variable(f"{prefix}_{part}", dtype) for part in ("query", "key", "value")]
    split_inputs = [projected, make.constant("sizes", sizes)]
    graph.nodes.append(gs.Node("Split", f"{prefix}_split", {"axis": -1}, split_inputs, parts))
    masks = [input_at(node, index) or gs.Variable.empty() for index in (3, 5)]
    attrs = {name: node.attrs[name] for name in _SHARED if name in node.attrs}
    output = node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    inputs = [*parts, gs.Variable.empty(), *masks]
    make.add("MultiHeadAttention", "heads", inputs, into=output, domain=CONTRIB, **attrs)
    result.count("attentions expanded")


def _why_whole(node: gs.Node, shapes: SymbolicShapes) -> Refusal | None:
    """Why a com.microsoft Attention cannot be written with MultiHeadAttention; None where it can."""
    if input_at(node, 4) is not None or input_at(node, 6) is not None:
        return because("it continues from the keys and values of an earlier run")
    if any(tensor.name for tensor in node.outputs[1:]):
        return because("it gives its keys and values to a later run")
    if node.attrs.get("do_rotary", 0):
        return because("it rotates its queries and keys")
    weight, mask = shapes.get(node.inputs[1].name), input_at(node, 3)
    if weight is None or len(weight) != 2 or not isinstance(weight[1], (int, sympy.Integer)):
        return because(f"the shape of its weight {node.inputs[1].name!r} is unknown")
    if mask is None:
        return None
    data, shape = shapes.get(node.inputs[0].name), shapes.get(mask.name)
    if shape is None or data is None or len(shape) not in (1, 2, 3) or shape[0] != data[0]:
        return because(f"its mask {mask.name!r} does not hold the lengths, a mask of the keys or a mask of pairs")
    return None


def _take_bias_out(graph: gs.Graph, node: gs.Node, shapes: SymbolicShapes, result: PassResult) -> None:
    bias = input_at(node, 3)
    if bias is None:
        return
    if not isinstance(bias, gs.Constant):
        result.refuse(node, f"its bias {bias.name!r} is computed")
        return
    operands = [input_at(node, index) for index in range(3)]
    widths = [_width(tensor, shapes) for tensor in operands]
    if 0 in widths or sum(widths) != bias.shape[0]:
        result.refuse(node, "its bias does not belong to a query, a key and a value [batch, seq, hidden]")
        return
    make = NodeBuilder(graph.nodes, node)
    parts = np.split(bias.values, np.cumsum(widths)[:2])
    for index, (tensor, part, what) in enumerate(zip(operands, parts, ("query", "key", "value"), strict=True)):
        operand = make.constant(f"{what}_bias", part, bias.dtype)
        node.inputs[index] = make.add("Add", f"{what}_biased", [tensor, operand], bias.dtype)
    node.inputs[3] = gs.Variable.empty()
    result.count("biases taken out")


def _width(tensor: gs.Tensor | None, shapes: SymbolicShapes) -> int:
    """The hidden size of a query, key or value [batch, seq, hidden]; 0 for any other layout."""
    shape = shapes.get(tensor.name) if tensor is not None else None
    if shape is None or len(shape) != 3 or not isinstance(shape[2], (int, sympy.Integer)):
        return 0
    return int(shape[2])


#: The operators that are taken apart.
_EXPANDED = {
    ("", "QLinearMatMul"): expand_quantised,
    (CONTRIB, "Attention"): _expand_attention,
    (CONTRIB, "EmbedLayerNormalization"): _expand_embedding,
    (CONTRIB, "FusedConv"): expand_convolution,
    (CONTRIB, "FusedGemm"): expand_gemm,
    (CONTRIB, "FusedMatMul"): expand_matmul,
    (CONTRIB, "MultiHeadAttention"): _take_bias_out,
    (CONTRIB, "QLinearAdd"): expand_quantised,
    (CONTRIB, "QLinearLeakyRelu"): expand_quantised,
    (CONTRIB, "QLinearMul"): expand_quantised,
    (CONTRIB, "QLinearSigmoid"): expand_quantised,
    (CONTRIB, "TransposeMatMul"): expand_matmul,
}
