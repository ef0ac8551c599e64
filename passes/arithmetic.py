"""What a chain of arithmetic computes, whatever the order and association in which an exporter wrote it.

The chain is computed with numbers in the place of its variables and compared with the formula that is looked for. Both
are rational functions of few terms; two of them that agree at this many points are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.cleanup.rewiring import is_op, onnx_dtype
from passes.node_values import constant

Array = np.ndarray[Any, Any]

#: Relative: constants that were rounded to float16 are still meant.
TOLERANCE = 1e-3
#: Elements of a constant that is read.
LARGEST_CONSTANT = 1 << 16

_DEEPEST = 10
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
_COMPUTE: dict[str, Callable[..., Array]] = {
    "Cast": np.positive,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
}


def is_arithmetic(node: gs.Node) -> bool:
    """Whether ``node`` may stand in a chain. A Cast from float to float may: the models of float16 have them."""
    return is_op(node, *_COMPUTE) and (node.op != "Cast" or node.attrs["to"] in _FLOATS)


def evaluate(tensor: gs.Tensor, values: Mapping[int, Array], most: int, depth: int = _DEEPEST) -> Array | None:
    """The values of ``tensor``, computed from those of other tensors by arithmetic.

    Args:
        tensor: what to compute.
        values: id of a tensor -> its values.
        most: elements of a constant that may take part.
        depth: how many nodes a chain may have.

    Returns:
        The values, or None where something else takes part.
    """
    if id(tensor) in values:
        return values[id(tensor)]
    numbers = small_constant(tensor, most)
    if numbers is not None:
        return numbers.astype(np.float64) if numbers.dtype.kind in "fiu" else None
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or depth == 0 or not is_arithmetic(node):
        return None
    operands = [evaluate(operand, values, most, depth - 1) for operand in node.inputs]
    if any(operand is None for operand in operands):
        return None
    with np.errstate(all="ignore"):
        return np.asarray(_COMPUTE[node.op](*operands))


def small_constant(tensor: gs.Tensor, most: int) -> Array | None:
    """The values of a constant of at most ``most`` elements; the others are not read."""
    if isinstance(tensor, gs.Constant) and np.prod(tensor.shape, dtype=np.int64) > most:
        return None
    values = constant(tensor)
    return values if values is not None and values.size <= most and values.dtype.kind != "O" else None


def scalar(tensor: gs.Tensor, rank: int | None) -> float | None:
    """The number that ``tensor`` holds, which leaves a tensor of ``rank`` that it is combined with its shape.

    [2] beside [B, S] is one; [[[2]]] is none, as it would add an axis. None for anything else.
    """
    values = small_constant(tensor, 1)
    if values is None or values.size != 1 or values.ndim > (1 if rank is None else rank):
        return None
    return float(values.reshape(-1)[0]) if values.dtype.kind in "fiu" else None


def rank_of(tensor: gs.Tensor) -> int | None:
    """How many axes ``tensor`` has, where the graph says it."""
    return None if tensor.shape is None else len(tensor.shape)


def variables(tensor: gs.Tensor, depth: int = _DEEPEST) -> Iterator[gs.Tensor]:
    """The tensors that ``tensor`` is computed from by arithmetic, itself among them; constants are left out."""
    node = tensor.inputs[0] if tensor.inputs else None
    if isinstance(tensor, gs.Constant) or (node is not None and node.op == "Constant"):
        return
    yield tensor
    if node is not None and depth and is_arithmetic(node):
        for operand in node.inputs:
            yield from variables(operand, depth - 1)


def has_type_of(tensor: gs.Tensor, other: gs.Tensor) -> bool:
    """Whether both tensors are of one type, as far as the graph says it."""
    kinds = (onnx_dtype(tensor), onnx_dtype(other))
    return None in kinds or kinds[0] == kinds[1]


def agrees(values: Array | None, formula: Array) -> bool:
    """Whether what a chain gives is what ``formula`` gives."""
    return values is not None and values.shape == formula.shape and np.allclose(values, formula, TOLERANCE, 1e-9)
