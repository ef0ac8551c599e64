"""How far numbers beyond float16 go: from the node with the weight to where they are small again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.operators import MOVES, Family, members
from passes.precision.half_losses import Loss
from passes.precision.half_values import LARGEST_HALF, float_constant
from passes.shapes.dtypes import FLOAT, has_dtype

#: Data without a known size count as 1; they may be some times that, and results a little smaller.
_WIDE, _TINY = float(LARGEST_HALF) / 4, 2.0**-14
_KEEP_SIZE = MOVES | members(Family.CLAMP, Family.SIGN, Family.CONVERSION, Family.REDUCTION)
_SUMS = (members(Family.ARITHMETIC) - {"Mul", "Div"}) | {"Mean", "Sum"}
_RAMPS = frozenset(["LeakyRelu", "Relu"])
_LARGEST_OF = _KEEP_SIZE | _SUMS | _RAMPS | {"Pad", "Resize", "TopK", "Where"}
_PRODUCTS = members(Family.PRODUCT) | {"Mul"}
_NORMS = frozenset(["BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"])
_ABOVE = members(Family.ARITHMETIC, Family.REDUCTION, Family.POWER, Family.PRODUCT) | MOVES
_ENDS = members(Family.REDUCTION, Family.PRODUCT)
_NO_PRECISION = frozenset(["If", "Loop", "Scan", "SequenceMap"])


@dataclass(frozen=True)
class Reach:
    """What is likely to be beyond float16, given the weights that are.

    Attributes:
        nodes: those that read a result out of range, and above a node whose weight says that it reads large numbers
            the arithmetic up to a product or a sum.
        large: name -> magnitude of the results above float16's range.
    """

    nodes: list[gs.Node]
    large: dict[str, float]


def beyond_half(nodes: Iterable[gs.Node], losses: Iterable[Loss]) -> Reach:
    """Follow what was lost up and down the graph whose ``nodes`` these are, in topological order."""
    lost = {id(loss.node): loss for loss in losses}
    reached: dict[int, gs.Node] = {}
    sizes: dict[int, float] = {}  # id of a tensor out of range -> its magnitude
    large: dict[str, float] = {}
    for node in nodes:
        loss = lost.get(id(node))
        if loss is not None and loss.input_too:
            reached.update((id(above), above) for above in _above(node))
        reads = node.op not in _NO_PRECISION and any(id(tensor) in sizes for tensor in node.inputs)
        if reads:
            reached[id(node)] = node
        size = _size(node, sizes) if reads or loss is not None else 1.0
        if not _TINY <= size <= _WIDE:
            outputs = [tensor for tensor in node.outputs if has_dtype(tensor, FLOAT)]
            sizes.update((id(tensor), size) for tensor in outputs)
            large.update((tensor.name, size) for tensor in outputs if size > _WIDE)
    return Reach(list(reached.values()), large)


def _size(node: gs.Node, sizes: dict[int, float]) -> float:
    """The magnitude of a node's result; 1 where nothing is known."""
    operands = [_operand(tensor, sizes) for tensor in node.inputs if has_dtype(tensor, FLOAT)]
    if not operands:
        return 1.0
    if node.op in _LARGEST_OF:
        return max(operands)
    if node.op in _PRODUCTS:
        return math.prod(operands[:2])
    if node.op in _NORMS:
        return max(operands[1:3], default=1.0)  # scale and offset
    if node.op == "Div" and len(operands) == 2:
        return operands[0] / operands[1]
    if node.op == "Sqrt":
        return math.sqrt(operands[0])
    return 1 / operands[0] if node.op == "Reciprocal" else 1.0


def _operand(tensor: gs.Tensor, sizes: dict[int, float]) -> float:
    values = float_constant(tensor)
    if values is None:
        return sizes.get(id(tensor), 1.0)
    magnitudes = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(magnitudes.max(initial=0.0)) or 1.0


def _above(node: gs.Node) -> list[gs.Node]:
    above: dict[int, gs.Node] = {}
    waiting = [node]
    while waiting:
        for tensor in waiting.pop().inputs:
            for maker in tensor.inputs if has_dtype(tensor, FLOAT) else ():
                if maker.op in _ABOVE and id(maker) not in above:
                    above[id(maker)] = maker
                    if maker.op not in _ENDS:
                        waiting.append(maker)
    return list(above.values())
