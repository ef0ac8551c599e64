"""Weights whose data lie elsewhere: tensors of known type and shape that are marked external and hold nothing."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs
from onnx.external_data_helper import uses_external_data
from onnx_graphsurgeon.ir.tensor import LazyValues


def placeholder(name: str, element: int, shape: Sequence[int], location: str) -> onnx.TensorProto:
    """A tensor that says where its data would be and holds none.

    Args:
        name: of the tensor.
        element: its ``TensorProto.DataType``.
        shape: its extents.
        location: the name of a file, or a word in its place.
    """
    tensor = onnx.TensorProto(name=name, data_type=element, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def is_placeholder(tensor: gs.Tensor) -> bool:
    """Whether ``tensor`` is a constant whose values are not in the graph: to read them is an error."""
    if not isinstance(tensor, gs.Constant):
        return False
    values = tensor._values
    return isinstance(values, LazyValues) and uses_external_data(values.tensor)


def retype(tensor: gs.Constant, element: int) -> None:
    """Give a placeholder another element type; whoever loads its data has to convert them."""
    retyped = onnx.TensorProto()
    retyped.CopyFrom(tensor._values.tensor)
    retyped.data_type = element
    tensor.values = LazyValues(retyped)
