"""int8 weights as uint8: for CPUs whose products of uint8 by int8 may overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from passes.placeholders import is_placeholder, retype

Weights = dict[str, npt.NDArray[Any]]

_FLIP = np.uint8(128)  # adding 128 turns the sign bit and nothing else


def unsigned(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``values``, int8, plus 128 as uint8."""
    return np.asarray(values.view(np.uint8) ^ _FLIP)


def signed_values(tensor: gs.Constant, weights: Weights) -> npt.NDArray[Any]:
    """The int8 values of ``tensor``, which ``weights`` holds where the graph does not."""
    return np.asarray(weights[tensor.name] if is_placeholder(tensor) else tensor.values, np.int8)


def make_unsigned(tensor: gs.Constant, weights: Weights) -> None:
    """Add 128 to an int8 ``tensor`` and let it be uint8; in ``weights`` where the graph does not hold its values."""
    values = unsigned(signed_values(tensor, weights))
    if is_placeholder(tensor):
        weights[tensor.name] = values
        retype(tensor, onnx.TensorProto.UINT8)
    else:
        tensor.values = values
