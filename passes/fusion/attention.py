"""Find attention that is spelled out: from its softmax to the products before it and behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.arithmetic import rank_of, scalar
from passes.cleanup.rewiring import is_op
from passes.node_values import constant
from passes.operators import Family, members
from passes.ops.common import DOMAIN
from passes.refusal import refused
from passes.rewriting import Site

#: Between the scores and their softmax, and between it and the product with the values.
_AROUND = members(Family.ARITHMETIC, Family.CLAMP, Family.CONVERSION, Family.ORDER) | {"Dropout", "Where"}
#: Between a projection and the product that reads it, besides scaling.
_LAYOUT = members(Family.ORDER, Family.AXES, Family.CONVERSION)
_LONGEST = 8


@dataclass(frozen=True)
class Attention:
    """Attention around a softmax.

    Attributes:
        scores: the MatMul of queries and keys.
        before: what stands between the scores and the softmax, from the first on.
        context: the MatMul of weights and values.
        values: which of its inputs are the values.
    """

    scores: gs.Node
    before: list[gs.Node]
    context: gs.Node
    values: int


def attention_of(softmax: gs.Node) -> Attention:
    """The attention that ``softmax`` belongs to.

    Raises:
        RefusedError: it is no attention that is spelled out.
    """
    before: list[gs.Node] = []
    scores = next(_scores_above(softmax.inputs[0], before, _LONGEST), None)
    tensor = softmax.outputs[0]
    for _ in range(_LONGEST):
        readers = [node for node in tensor.outputs if is_op(node, "MatMul", *_AROUND)]
        context = next((node for node in readers if is_op(node, "MatMul")), None)
        if context is not None and scores is not None:
            values = 1 if context.inputs[0] is tensor else 0
            return Attention(scores, before[::-1], context, values)
        if not readers:
            break
        tensor = readers[0].outputs[0]
    raise refused("it stands between no product of queries and keys and no product with values")


def _scores_above(tensor: gs.Tensor, path: list[gs.Node], depth: int) -> Iterator[gs.Node]:
    """The product of two computed tensors above ``tensor``; ``path`` then holds the nodes between, from the last on."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or depth == 0:
        return
    if is_op(node, "MatMul"):
        if all(constant(operand) is None for operand in node.inputs):
            yield node
        return
    if is_op(node, *_AROUND):
        path.append(node)
        for operand in node.inputs:
            if operand.name:
                yield from _scores_above(operand, path, depth - 1)
        path.pop()


@dataclass(frozen=True)
class Projection:
    """A product by a constant matrix, and the bias that is added.

    Attributes:
        product: the MatMul.
        bias: the Add of a constant behind it; None where there is none.
        between: the nodes from its result to the product that was asked about.
    """

    product: gs.Node
    bias: gs.Node | None
    between: list[gs.Node]

    @property
    def last(self) -> gs.Node:
        """The node that gives the result."""
        return self.bias if self.bias is not None else self.product


def projection_of(tensor: gs.Tensor, site: Site) -> Projection | None:
    """The projection that ``tensor`` is computed from by changes of layout and scaling; None where it is none."""
    between: list[gs.Node] = []
    for _ in range(_LONGEST):
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None:
            return None
        if is_op(node, "MatMul") and constant(node.inputs[1]) is not None:
            return Projection(node, None, between)
        if is_op(node, "Add"):
            return _biased(node, between, site)
        if not _is_layout(node) and scale_of(node) is None:
            return None
        between.insert(0, node)
        tensor = node.inputs[0] if scale_of(node) is None else scaled_operand(node)
    return None


def _is_layout(node: gs.Node) -> bool:
    return is_op(node, *_LAYOUT) or (node.domain == DOMAIN and node.op in ("Repack", "Unpack"))


def _biased(node: gs.Node, between: list[gs.Node], site: Site) -> Projection | None:
    for tensor, other in (node.inputs, reversed(node.inputs)):
        product = site.producer(tensor, "MatMul")
        if product is not None and constant(product.inputs[1]) is not None and constant(other) is not None:
            return Projection(product, node, between)
    return None


def scale_of(node: gs.Node) -> float | None:
    """The number that a Mul or Div multiplies its other operand by; None for any other node."""
    if not is_op(node, "Mul", "Div"):
        return None
    if is_op(node, "Div"):
        divisor = scalar(node.inputs[1], rank_of(node.inputs[0]))
        return 1 / divisor if divisor else None
    numbers = [scalar(node.inputs[index], rank_of(node.inputs[1 - index])) for index in range(2)]
    return next((number for number in numbers if number is not None), None)


def scaled_operand(node: gs.Node) -> gs.Tensor:
    """What a node with a :func:`scale_of` scales."""
    is_second = is_op(node, "Mul") and scalar(node.inputs[1], rank_of(node.inputs[0])) is None
    return node.inputs[1] if is_second else node.inputs[0]
