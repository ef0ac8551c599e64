"""Which nodes read weights that float16 cannot hold: numbers beyond its range, or lost below it.

A mask's fill is no such weight (half_fills.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.precision.half_fills import is_fill
from passes.precision.half_values import LARGEST_HALF, float_constant
from passes.shapes.dtypes import FLOAT, has_dtype

Array = np.ndarray[Any, Any]

#: A relative error that shows in results; float16's own rounding is 2^-11.
LARGEST_ERROR = 2.0**-7
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
_DEVIATIONS = 4  # from the mean: further away lies next to nothing


@dataclass(frozen=True)
class Loss:
    """A weight that float16 cannot hold.

    Attributes:
        node: what reads it.
        reason: for people, to follow the node's name.
        input_too: whether it says that what the node computes with may be lost in float16 as well.
    """

    node: gs.Node
    reason: str
    input_too: bool = False


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


def _loss(node: gs.Node, index: int, name: str, values: Array, fills: set[str]) -> Loss | None:
    beyond = _beyond(values)
    if beyond.size:
        if is_fill(node, beyond):
            fills.add(name)
            return None
        worst = float(beyond[np.abs(beyond).argmax()])
        return Loss(node, f"{name!r} holds {worst:.3g}, beyond float16", input_too=node.op == "Div" and index == 1)
    if index in _FACTORS.get(node.op, ()) and _vanishes(values):
        reason = f"the factor {name!r} is too small for float16: at most {np.abs(values).max():.3g}"
        return Loss(node, reason, input_too=node.op == "Mul")
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


def _lost_statistics(node: gs.Node) -> Iterator[Loss]:
    """A BatchNormalization whose factor and offset a channel, made from rounded statistics, are others.

    Mean and variance tell the range of what it reads, too: beyond float16, or too far from zero for its steps.
    """
    arrays = [array for tensor in node.inputs[1:5] if (array := float_constant(tensor)) is not None]
    if len(arrays) < 4 or len({array.shape for array in arrays}) > 1:
        return
    exact = np.stack(arrays).astype(np.float64)
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    factor, offset = _line(exact, epsilon)
    with np.errstate(all="ignore"):
        rounded_factor, rounded_offset = _line(exact.astype(np.float16).astype(np.float64), epsilon)
        error = np.abs(rounded_factor - factor) * np.sqrt(exact[3] + epsilon) + np.abs(rounded_offset - offset)
    largest = np.abs(exact[2]) + _DEVIATIONS * np.sqrt(np.maximum(exact[3], 0))
    input_error = np.where(largest > LARGEST_HALF, np.inf, np.maximum(largest * 2.0**-12, 2.0**-25) * np.abs(factor))
    bound = LARGEST_ERROR * float((np.abs(exact[0]) + np.abs(exact[1])).max(initial=0.0))
    worst = np.nan_to_num(np.maximum(error, input_error), nan=np.inf)
    if (worst <= bound).all():
        return
    channel = int(worst.argmax())
    _, _, mean, variance = exact[:, channel]
    reason = f"float16 loses its statistics: channel {channel} has mean {mean:.3g} and variance {variance:.3g}"
    yield Loss(node, reason, input_too=not (input_error <= bound).all())


def _line(statistics: Array, epsilon: float) -> tuple[Array, Array]:
    """The factor and the offset a channel, of rows scale, bias, mean and variance."""
    scale, bias, mean, variance = statistics
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        return factor, bias - mean * factor
