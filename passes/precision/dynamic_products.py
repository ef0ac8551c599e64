"""Products that quantise their activation as the model runs, with one scale for the whole tensor.

onnxruntime's quantiser writes them as DynamicQuantizeLinear, MatMulInteger or ConvInteger, Cast and Mul; its optimiser
fuses products by matrices to MatMulIntegerToFloat, DynamicQuantizeMatMul and QAttention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto

from passes.base import graph_output_names
from passes.cleanup.rewiring import is_op
from passes.errors import PackingError
from passes.fusion.attention_ops import input_at
from passes.node_values import constant
from passes.operators import CONTRIB
from passes.refusal import MOST_NAMED, because
from passes.shapes.dtypes import has_dtype

Array = NDArray[Any]


@dataclass(frozen=True)
class IntegerWeight:
    """A constant of integers and what they stand for: ``(levels - zero_point) * scale``.

    Attributes:
        levels: int8 or uint8, a matrix [rows, columns] or of more axes.
        scale, zero_point: float32, and the type of ``levels``; each [], or [columns] of a matrix.
    """

    levels: gs.Constant
    scale: Array
    zero_point: Array

    @property
    def key(self) -> tuple[int, bytes, bytes]:
        """Tells weights that stand for other numbers apart."""
        return id(self.levels), self.scale.tobytes(), self.zero_point.tobytes()

    @property
    def is_matrix(self) -> bool:
        """Whether there are rows and columns, and nothing else."""
        return len(self.levels.shape) == 2

    @property
    def columns(self) -> int:
        """How many columns a matrix has."""
        return int(self.levels.shape[1])


@dataclass(frozen=True)
class DynamicProduct:
    """A product by integers of an activation that is quantised as a whole.

    Attributes:
        node: what multiplies.
        last: what gives the product in float32; ``node`` itself where that is fused.
        activation: what is quantised, float32.
        weight: the integers; None where the right side is an activation too (:attr:`right`).
        right: the second activation, quantised as a whole as well.
        bias: what a fused product adds.
    """

    node: gs.Node
    last: gs.Node
    activation: gs.Tensor
    weight: IntegerWeight | None = None
    right: gs.Tensor | None = None
    bias: gs.Tensor | None = None


def find_dynamic_products(graph: gs.Graph) -> list[DynamicProduct]:
    """Those of the main graph, in its order."""
    outputs = graph_output_names(graph)
    products = (_FINDERS[node.domain or "", node.op](node, outputs) for node in graph.nodes if _may_be_product(node))
    return [product for product in products if product is not None]


def refuse_shared_scales(graph: gs.Graph) -> None:
    """Refuse to pack a graph in which the samples of a run would share the scales of products.

    Raises:
        PackingError: there are such products; the message names some, and the options that help.
    """
    products = find_dynamic_products(graph)
    if products:
        refusals = [because("its activation has one scale a tensor").at(product.node) for product in products]
        named = ", ".join(str(refusal.node) for refusal in refusals[:MOST_NAMED])
        more = ", …" if len(products) > MOST_NAMED else ""
        raise PackingError(
            f"{len(products)} products ({named}{more}) quantise their activation with one scale for the whole tensor: "
            "in a pack an answer would move with its company. Give --requantize for a scale a token, or "
            "--pack_shared_scales to pack the model with the scales that it has",
            refusals,
        )


def _may_be_product(node: gs.Node) -> bool:
    return (node.domain or "", node.op) in _FINDERS


def _product_of_integers(node: gs.Node, outputs: frozenset[str]) -> DynamicProduct | None:
    """A MatMulInteger or ConvInteger with the Cast and Mul behind it."""
    source = _quantiser(node.inputs[0], input_at(node, 2))
    cast = _sole_reader(node.outputs[0], outputs)
    if source is None or cast is None or not is_op(cast, "Cast") or cast.attrs.get("to") != TensorProto.FLOAT:
        return None
    other = _quantiser(node.inputs[1], input_at(node, 3))
    if other is not None:
        scaled = _scaled_by_steps(cast, source.outputs[1], other.outputs[1], outputs)
        return scaled and DynamicProduct(node, scaled, source.inputs[0], right=other.inputs[0])
    last, scale = _scaled(cast, source.outputs[1], outputs)
    weight = integer_weight(node.inputs[1], scale, input_at(node, 3))
    if last is None or weight is None:
        return None
    return DynamicProduct(node, last, source.inputs[0], weight)


@dataclass(frozen=True)
class _FusedOperands:
    """At which inputs a fused product has the step and zero point of its activation, those of its weight, and a bias.

    Its first two inputs are the levels of both.
    """

    step: int
    zero_point: int
    weight_scale: int
    weight_zero_point: int
    bias: int

    def __call__(self, node: gs.Node, outputs: frozenset[str]) -> DynamicProduct | None:
        """The product of ``node``, where its activation is quantised as a whole."""
        source = _quantiser(node.inputs[0], input_at(node, self.zero_point))
        weight = integer_weight(node.inputs[1], node.inputs[self.weight_scale], input_at(node, self.weight_zero_point))
        if source is None or weight is None or node.inputs[self.step] is not source.outputs[1]:
            return None
        return DynamicProduct(node, node, source.inputs[0], weight, bias=input_at(node, self.bias))


def _dynamic_quantize_matmul(node: gs.Node, outputs: frozenset[str]) -> DynamicProduct | None:
    weight = integer_weight(node.inputs[1], node.inputs[2], input_at(node, 3))
    if weight is None:
        return None
    return DynamicProduct(node, node, node.inputs[0], weight, bias=input_at(node, 4))


_FINDERS: dict[tuple[str, str], Callable[[gs.Node, frozenset[str]], DynamicProduct | None]] = {
    ("", "ConvInteger"): _product_of_integers,
    ("", "MatMulInteger"): _product_of_integers,
    (CONTRIB, "MatMulIntegerToFloat"): _FusedOperands(2, 4, weight_scale=3, weight_zero_point=5, bias=6),
    (CONTRIB, "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    # the product is the projection inside it
    (CONTRIB, "QAttention"): _FusedOperands(3, 6, weight_scale=4, weight_zero_point=7, bias=2),
}


def _quantiser(levels: gs.Tensor, zero_point: gs.Tensor | None) -> gs.Node | None:
    """The DynamicQuantizeLinear that gives both; None where there is none."""
    producer = levels.inputs[0] if levels.inputs else None
    if producer is None or not is_op(producer, "DynamicQuantizeLinear") or len(producer.outputs) != 3:
        return None
    return producer if producer.outputs[0] is levels and producer.outputs[2] is zero_point else None


def _scaled(cast: gs.Node, step: gs.Tensor, outputs: frozenset[str]) -> tuple[gs.Node | None, gs.Tensor | Array | None]:
    """The node that has multiplied the sums by the activation's step and the weight's scale, and that scale."""
    first = _sole_reader(cast.outputs[0], outputs)
    if first is None or not is_op(first, "Mul"):
        return None, None
    factor = _other(first, cast.outputs[0])
    if factor is step:  # a scale that follows later belongs to nobody here
        return first, np.array(1, np.float32)
    maker = factor.inputs[0] if factor.inputs else None
    if maker is not None and is_op(maker, "Mul") and any(tensor is step for tensor in maker.inputs):
        return first, _other(maker, step)
    second = _sole_reader(first.outputs[0], outputs)
    if second is not None and is_op(second, "Mul") and _other(second, first.outputs[0]) is step:
        return second, factor
    return None, None


def _scaled_by_steps(cast: gs.Node, left: gs.Tensor, right: gs.Tensor, outputs: frozenset[str]) -> gs.Node | None:
    """The node that has multiplied the sums of two activations by the steps of both."""
    last, step = _scaled(cast, left, outputs)
    if step is right:
        return last
    last, step = _scaled(cast, right, outputs)
    return last if step is left else None


def _other(node: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
    return node.inputs[1] if node.inputs[0] is tensor else node.inputs[0]


def _sole_reader(tensor: gs.Tensor, outputs: frozenset[str]) -> gs.Node | None:
    return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.name not in outputs else None


def integer_weight(
    levels: gs.Tensor, scale: gs.Tensor | Array | None, zero_point: gs.Tensor | None
) -> IntegerWeight | None:
    """A constant with its scale and zero point; None where one of them is of another form."""
    if not isinstance(levels, gs.Constant) or scale is None:
        return None
    columns = levels.shape[1] if len(levels.shape) == 2 else 1
    kind = next((kind for kind in (np.int8, np.uint8) if has_dtype(levels, kind)), None)
    steps = _by_column(scale, columns)
    points = _by_column(np.zeros((), kind) if zero_point is None else zero_point, columns)
    if kind is None or steps is None or points is None or steps.dtype != np.float32 or points.dtype != kind:
        return None
    return IntegerWeight(levels, steps, points)


def _by_column(tensor: gs.Tensor | Array, columns: int) -> Array | None:
    """A constant as [] or [columns], [] where all are alike; None where it is neither."""
    values = tensor if isinstance(tensor, np.ndarray) else constant(tensor)
    if values is None or not values.size or values.shape not in ((), (1,), (columns,), (1, columns)):
        return None
    flat = values.reshape(-1)
    return np.asarray(flat[0]) if (flat == flat[0]).all() else flat
