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


def constant_or_empty(tensor: gs.Tensor) -> list[Any]:
    """The constant's elements, or an empty list."""
    values = constant(tensor)
    return [] if values is None else values.reshape(-1).tolist()
