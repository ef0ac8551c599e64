"""Which kinds of products a graph has, for a report that says why none was quantised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import walk_graphs

QUANTISED = "already quantised"
#: Products whose operands are integers, or whose weight is stored as such.
QUANTISED_OPS = frozenset(
    (
        "MatMulInteger",
        "QLinearMatMul",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "MatMulNBits",
        "MatMulBnb4",
        "MatMulFpQ4",
        "QGemm",
        "QAttention",
        "QLinearConv",
        "ConvInteger",
        "DynamicQuantizeLSTM",
    )
)
#: Products by a matrix, in the main graph or elsewhere. Of convolutions only those that are quantised count: no others
#: are asked to be.
_CONVOLUTIONS = frozenset(("Conv", "ConvTranspose", "FusedConv"))
_PRODUCTS = frozenset(("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Attention")) | _CONVOLUTIONS
#: What may stand between a weight and its product.
_MOVERS = frozenset(["Transpose", "Cast", "Reshape", "Identity", "QuantizeLinear", "DequantizeLinear"])


def product_kinds(graph: gs.Graph) -> dict[str, int]:
    """Products by constant matrices, also of subgraphs and local functions: :data:`QUANTISED` or dtype -> how many."""
    kinds = (_kind(node) for scope in walk_graphs(graph) for node in scope.nodes)
    return dict(Counter(kind for kind in kinds if kind))


def _kind(node: gs.Node) -> str:
    """The kind of a product by a constant matrix; "" of any other node."""
    if node.op in QUANTISED_OPS:
        return QUANTISED
    if node.op not in _PRODUCTS:
        return ""
    kind = next(filter(None, map(_weight_kind, node.inputs[:2])), "")
    return kind if kind == QUANTISED or node.op not in _CONVOLUTIONS else ""


def _weight_kind(tensor: gs.Tensor) -> str:
    """The kind of a constant matrix; "" of an activation."""
    quantised = False
    while not isinstance(tensor, gs.Constant):
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or producer.op not in _MOVERS:
            return ""
        quantised = quantised or producer.op == "DequantizeLinear"
        tensor = producer.inputs[0]
    if quantised:
        return QUANTISED
    return dtype_name(tensor)


def dtype_name(tensor: gs.Tensor) -> str:
    """The name of a tensor's type; a type that numpy lacks has its name in ONNX."""
    if tensor.dtype is None:
        return "unknown"
    if isinstance(tensor.dtype, int):
        return str(onnx.TensorProto.DataType.Name(tensor.dtype)).lower()
    return str(np.dtype(tensor.dtype).name)


def show_kinds(kinds: Mapping[str, int]) -> str:
    """The counts of :func:`product_kinds` on one line."""
    shown = (f"{number} {kind if kind == QUANTISED else f'with {kind} weights'}" for kind, number in kinds.items())
    return ", ".join(shown) or "none"
