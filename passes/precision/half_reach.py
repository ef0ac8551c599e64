"""How far numbers beyond float16 go: from the node with the weight to where they are small again."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from passes.operators import MOVES, Family, members
from passes.precision.half_losses import Loss, float_constant
from passes.precision.half_values import LARGEST_HALF
from passes.shapes.dtypes import FLOAT, has_dtype

#: Data without a known size count as 1; they may be some times that, and results a little smaller.
_WIDE, _TINY = float(LARGEST_HALF) / 4, 2.0**-14
_KEEP_SIZE = MOVES | members(Family.CLAMP, Family.SIGN, Family.CONVERSION, Family.REDUCTION)
_LARGEST_OF = _KEEP_SIZE | {"Add", "Sub", "Sum", "Mean", "Where", "Relu", "LeakyRelu", "Pad", "Resize", "TopK"}
_PRODUCTS = members(Family.PRODUCT) | {"Mul"}
_ABOVE = members(Family.ARITHMETIC, Family.REDUCTION, Family.POWER, Family.PRODUCT) | MOVES
_ENDS = members(Family.REDUCTION, Family.PRODUCT)
_NO_PRECISION = frozenset(["If", "Loop", "Scan", "SequenceMap"])


def beyond_half(losses: Iterable[Loss]) -> list[gs.Node]:
    """The other nodes whose operands or results are likely to be beyond float16, given what was lost.

    Below a node they are those that read a result out of range; above it, the arithmetic up to a product or a sum,
    where the weight says that it reads large numbers.
    """
    found: dict[int, gs.Node] = {}
    sizes: dict[int, float] = {}
    waiting = []
    for loss in losses:
        waiting.append(loss.node)
        if loss.wide_input:
            found.update((id(node), node) for node in _above(loss.node))
    while waiting:
        node = waiting.pop()
        size = _size(node, sizes)
        if _TINY <= size <= _WIDE:
            continue
        for tensor in node.outputs:
            if has_dtype(tensor, FLOAT) and id(tensor) not in sizes:
                sizes[id(tensor)] = size
                readers = [reader for reader in tensor.outputs if reader.op not in _NO_PRECISION]
                found.update((id(reader), reader) for reader in readers)
                waiting.extend(readers)
    return list(found.values())


def _size(node: gs.Node, sizes: dict[int, float]) -> float:
    """The magnitude of a node's result; 1 where nothing is known."""
    operands = [_operand(tensor, sizes) for tensor in node.inputs if has_dtype(tensor, FLOAT)]
    if not operands:
        return 1.0
    if node.op in _LARGEST_OF:
        return max(operands)
    if node.op in _PRODUCTS:
        return math.prod(operands[:2])
    if node.op == "Div" and len(operands) == 2:
        return operands[0] / operands[1]
    if node.op == "Sqrt":
        return math.sqrt(operands[0])
    return 1 / operands[0] if node.op == "Reciprocal" else 1.0


def _operand(tensor: gs.Tensor, sizes: dict[int, float]) -> float:
    values = float_constant(tensor)
    if values is None:
        return sizes.get(id(tensor), 1.0)
    known = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(known.max(initial=0.0)) or 1.0


def _above(node: gs.Node) -> list[gs.Node]:
    found: dict[int, gs.Node] = {}
    waiting = [node]
    while waiting:
        for tensor in waiting.pop().inputs:
            for maker in tensor.inputs if has_dtype(tensor, FLOAT) else ():
                if maker.op in _ABOVE and id(maker) not in found:
                    found[id(maker)] = maker
                    if maker.op not in _ENDS:
                        waiting.append(maker)
    return list(found.values())
