"""Constants that nodes read, as initializers, Constant nodes or attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

#: Attributes of Constant that list numbers -> the type of the tensor that they give.
_LISTED = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}


def axes_argument(node: gs.Node) -> list[int] | None:
    """The axes of a Reduce, Squeeze or Unsqueeze, as attribute or as second input; None where they are computed."""
    if "axes" in node.attrs:
        return [int(axis) for axis in node.attrs["axes"]]
    if len(node.inputs) < 2 or node.inputs[1].is_empty():
        return []
    values = constant(node.inputs[1])
    return None if values is None else [int(axis) for axis in values.reshape(-1)]


def pads_argument(node: gs.Node, rank: int) -> list[tuple[int, int]] | None:
    """What a Pad adds before and behind each axis; negative where it cuts. None where that is computed."""
    pads = np.asarray(node.attrs["pads"]) if "pads" in node.attrs else constant(node.inputs[1])
    named = node.inputs[3] if len(node.inputs) > 3 and not node.inputs[3].is_empty() else None
    axes = np.arange(rank) if named is None else constant(named)
    if pads is None or axes is None or pads.size != 2 * axes.size:
        return None
    both = [(0, 0)] * rank
    for axis, before, behind in zip(axes.reshape(-1), *pads.reshape(2, -1), strict=True):
        both[int(axis)] = (int(before), int(behind))
    return both


def constant(tensor: gs.Tensor) -> np.ndarray | None:
    """The value of an initializer or of a Constant node's output; None for anything computed."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    if tensor.inputs and tensor.inputs[0].op == "Constant":
        attributes = tensor.inputs[0].attrs
        if "value" in attributes:
            return np.asarray(attributes["value"].values)
        return next((np.array(attributes[name], dtype) for name, dtype in _LISTED.items() if name in attributes), None)
    return None


def known_values(tensor: gs.Tensor, most: int) -> np.ndarray | None:
    """The constant, or the numbers that a DequantizeLinear makes of constants of at most ``most`` elements.

    None for anything else, and where a weight has more elements.
    """
    values = constant(tensor)
    node = tensor.inputs[0] if values is None and tensor.inputs else None
    if node is None or node.op != "DequantizeLinear":
        return values
    parameters = [constant(item) for item in node.inputs if not item.is_empty()]
    levels, scale, *point = parameters
    if levels is None or scale is None or any(item is None for item in point) or levels.size > most or scale.size != 1:
        return None
    shift = point[0].astype(np.float64) if point and point[0] is not None else 0.0
    return ((levels.astype(np.float64) - shift) * scale.astype(np.float64)).astype(scale.dtype)


def constant_or_empty(tensor: gs.Tensor) -> list[Any]:
    """The constant's elements, or an empty list."""
    values = constant(tensor)
    return [] if values is None else values.reshape(-1).tolist()
