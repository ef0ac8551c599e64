"""Which nodes read weights that float16 cannot hold: numbers beyond its range, or lost below it.

A mask's fill is no such weight. It is there to be lower (or higher) than every score, and any large number is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.operators import MOVES, Family, members
from passes.precision.half_values import LARGEST_HALF, read_values
from passes.shapes.dtypes import FLOAT, has_dtype

Array = np.ndarray[Any, Any]

#: A relative error that shows in results; float16's own rounding is 2^-11.
LARGEST_ERROR = 2.0**-7
#: No measured quantity: float32's own limits, and what programs write for infinity.
_SENTINEL = 1e30
#: Where the root mean square of a tensor lies lower, float16's step of 2^-24 below 2^-14 makes a larger error.
_LEAST_RMS = 2.0**-18
#: By operator, the inputs that others are multiplied by. Elsewhere a tiny number is added, and its loss is as tiny.
_FACTORS = {
    "Mul": (0, 1),
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "FusedMatMul": (0, 1),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "PRelu": (1,),
    "InstanceNormalization": (1,),
    "GroupNormalization": (1,),
    "LayerNormalization": (1,),
    "RNN": (1, 2),
    "GRU": (1, 2),
    "LSTM": (1, 2),
    "Attention": (1,),
}
_PASSING = MOVES | members(Family.ARITHMETIC, Family.CLAMP, Family.CONVERSION, Family.SIGN) | {"Where", "Sum"}
_LOOKS_FOR_LARGEST = frozenset(
    """Softmax LogSoftmax Hardmax ReduceMax ReduceMin ReduceLogSumExp ArgMax ArgMin TopK Max Min MaxPool GlobalMaxPool
    Exp Sigmoid Tanh HardSigmoid Attention MultiHeadAttention GroupQueryAttention BiasSoftmax PackedAttention
    DecoderMaskedMultiHeadAttention""".split()
)
_FILLS = frozenset(["Where", "ScatterElements", "ScatterND", "Pad"])
_BOUNDS = members(Family.CLAMP)
_DEVIATIONS = 4  # from the mean: further away lies next to nothing


@dataclass(frozen=True)
class Loss:
    """A weight that float16 cannot hold.

    Attributes:
        node: what reads it.
        reason: for people, to follow the node's name.
        wide_input: whether it says that what it is combined with may be beyond float16 as well.
    """

    node: gs.Node
    reason: str
    wide_input: bool = False


def losses(nodes: Iterable[gs.Node], reads_half: Callable[[gs.Node, int], bool], fills: set[str]) -> Iterator[Loss]:
    """What the nodes would lose, at most one a node.

    Args:
        nodes: of one graph and its subgraphs.
        reads_half: whether an input of a node would be float16.
        fills: gets the names of the constants beyond float16 that are masks' fills.
    """
    for node in nodes:
        if node.op == "BatchNormalization":
            if reads_half(node, 1):
                yield from _lost_statistics(node)
            continue
        for index, tensor in enumerate(node.inputs):
            if not has_dtype(tensor, FLOAT) or not reads_half(node, index):
                continue
            values = float_constant(tensor)
            loss = None if values is None else _loss(node, index, tensor.name, values, fills)
            if loss is not None:
                yield loss
                break


def float_constant(tensor: gs.Tensor) -> Array | None:
    """The numbers of a float32 initializer, or of what Constant and ConstantOfShape make; None for anything else."""
    if isinstance(tensor, gs.Constant):
        return read_values(tensor)
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op not in ("Constant", "ConstantOfShape"):
        return None
    value = maker.attrs.get("value", maker.attrs.get("value_float", maker.attrs.get("value_floats")))
    if value is None or isinstance(value, gs.Node.AttributeRef):
        return None
    return np.asarray(value.values if isinstance(value, gs.Constant) else value, np.float32)


def _loss(node: gs.Node, index: int, name: str, values: Array, fills: set[str]) -> Loss | None:
    beyond = _beyond(values)
    if beyond.size:
        if _is_fill(node, beyond):
            fills.add(name)
            return None
        worst = float(beyond[np.abs(beyond).argmax()])
        return Loss(node, f"{name!r} holds {worst:.3g}, beyond float16", wide_input=node.op == "Div" and index == 1)
    if index in _FACTORS.get(node.op, ()) and _vanishes(values):
        reason = f"the factor {name!r} is too small for float16: at most {np.abs(values).max():.3g}"
        return Loss(node, reason, wide_input=node.op == "Mul")
    if node.op == "Div" and index == 1 and _relative_error(values) > LARGEST_ERROR:
        least = np.abs(values[values != 0]).min()
        return Loss(node, f"the divisor {name!r} is too small for float16: at least {least:.3g}")
    return None


def _beyond(values: Array) -> Array:
    """The finite numbers that float16 lacks."""
    if values.size == 0 or (values.min() >= -LARGEST_HALF and values.max() <= LARGEST_HALF):
        return values.ravel()[:0]
    return np.asarray(values[np.isfinite(values) & (np.abs(values) > LARGEST_HALF)])


def _vanishes(values: Array) -> bool:
    """Whether most of a factor is lost between float16's smallest numbers and zero."""
    if values.size == 1:
        return bool(_relative_error(values) > LARGEST_ERROR)
    square = float(np.vdot(values, values))
    return 0 < square < _LEAST_RMS**2 * values.size or (square == 0 and bool(values.any()))


def _relative_error(values: Array) -> float:
    """The largest of rounding to float16, over the numbers that are not zero."""
    exact = values[(values != 0) & np.isfinite(values)].astype(np.float64)
    return float((np.abs(exact.astype(np.float16) - exact) / np.abs(exact)).max(initial=0.0))


def _is_fill(node: gs.Node, beyond: Array) -> bool:
    """Whether numbers beyond float16 stand for "lower than all others", or are a bound that nothing reaches."""
    if node.op == "Div":
        return False
    below, above = bool((beyond < 0).all()), bool((beyond > 0).all())
    if (np.abs(beyond) >= _SENTINEL).all() or (node.op in _FILLS and below):
        return True
    if node.op in _BOUNDS:
        return node.op == "Clip" or (below if node.op == "Max" else above)
    return node.op in _PASSING and _is_compared(node)


def _is_compared(node: gs.Node) -> bool:
    """Whether what ``node`` makes ends, added to or moved, where the largest number wins."""
    stack, seen = [node], {id(node)}
    while stack:
        for reader in (reader for tensor in stack.pop().outputs for reader in tensor.outputs):
            if reader.op in _LOOKS_FOR_LARGEST:
                return True
            if reader.op in _PASSING and id(reader) not in seen:
                seen.add(id(reader))
                stack.append(reader)
    return False


def _lost_statistics(node: gs.Node) -> Iterator[Loss]:
    """A BatchNormalization whose factor and offset a channel, made from rounded statistics, are others.

    Its mean and variance tell the range of what it reads, too.
    """
    arrays = [array for tensor in node.inputs[1:5] if (array := float_constant(tensor)) is not None]
    if len(arrays) < 4 or len({array.shape for array in arrays}) > 1:
        return
    exact = np.stack(arrays).astype(np.float64)
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    factor, offset = _line(exact, epsilon)
    with np.errstate(all="ignore"):
        rounded_factor, rounded_offset = _line(exact.astype(np.float16).astype(np.float64), epsilon)
        deviation = np.sqrt(exact[3] + epsilon)
        error = np.abs(rounded_factor - factor) * deviation + np.abs(rounded_offset - offset)
    size = float((np.abs(exact[0]) + np.abs(exact[1])).max(initial=0.0))
    if (error <= LARGEST_ERROR * size).all():
        return
    channel = int(np.nan_to_num(error, nan=np.inf).argmax())
    _, _, mean, variance = exact[:, channel]
    wide = bool((np.abs(exact[2]) + _DEVIATIONS * deviation > LARGEST_HALF).any())
    reason = f"float16 cannot hold its statistics (channel {channel}: mean {mean:.3g}, variance {variance:.3g})"
    yield Loss(node, reason, wide_input=wide)


def _line(statistics: Array, epsilon: float) -> tuple[Array, Array]:
    """The factor and the offset a channel, of rows scale, bias, mean and variance."""
    scale, bias, mean, variance = statistics
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        return factor, bias - mean * factor
