"""Weights that are kept outside of the graph, as passes meet them: constants of known type and shape, no data."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
from onnx.external_data_helper import uses_external_data
from onnx_graphsurgeon.ir.tensor import LazyValues

_LOCATION = "weights.bin"


def placeholder(name: str, element: int, shape: list[int]) -> onnx.TensorProto:
    """An initializer that says where its data would be and holds none.

    Args:
        name: of the tensor.
        element: its ``TensorProto.DataType``.
        shape: its extents.
    """
    made = onnx.TensorProto(name=name, data_type=element, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    made.external_data.add(key="location", value=_LOCATION)
    return made


def is_placeholder(tensor: gs.Tensor) -> bool:
    """Whether ``tensor`` is a weight whose values are not in the graph: to read them is an error."""
    if not isinstance(tensor, gs.Constant):
        return False
    values = tensor._values
    return isinstance(values, LazyValues) and uses_external_data(values.tensor)


def declare(tensor: gs.Constant, element: int) -> None:
    """Give a placeholder another element type; whoever loads its data has to convert them."""
    tensor.values = LazyValues(placeholder(tensor.name, element, list(tensor.shape)))
