"""Whether a tensor says a type that exists and holds the values that its extents promise."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper

from passes.errors import RewriteError

_TYPES = frozenset(onnx.TensorProto.DataType.values())
#: Types of which several values share a byte.
_SUBBYTE = frozenset(
    number for name, number in onnx.TensorProto.DataType.items() if name.endswith(("INT4", "INT2", "FLOAT4E2M1"))
)
#: A tensor of fewer bytes is simply read; of a larger one only its length is looked at.
_SMALL = 1 << 16


def check_element_type(number: int, what: str) -> None:
    """Refuse a number that stands for no element type; 0 (not said) is one.

    Raises:
        RewriteError: it begins with ``what``.
    """
    if number not in _TYPES:
        raise RewriteError(f"{what} has element type {number}, which ONNX does not define; export the model again")


def check_tensor(tensor: onnx.TensorProto, what: str) -> None:
    """Refuse a tensor of unknown type, with negative extents, or whose data are not as long as its extents say.

    Raises:
        RewriteError: it begins with ``what``.
    """
    check_element_type(tensor.data_type, what)
    if tensor.data_type == onnx.TensorProto.UNDEFINED or any(extent < 0 for extent in tensor.dims):
        raise RewriteError(f"{what} has no element type, or negative extents {list(tensor.dims)}; export it again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type in _SUBBYTE:
        return
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        needed = elements * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if not _has_raw_bytes(tensor, needed):
            raise RewriteError(f"{what} is truncated: it has {len(tensor.raw_data)} bytes of {needed}")
    else:
        _check_typed_data(tensor, elements, what)


def _has_raw_bytes(tensor: onnx.TensorProto, needed: int) -> bool:
    """Whether the raw data have this length; reading them would copy them."""
    if needed > _SMALL:
        rest = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        if tensor.HasField("doc_string"):
            rest.doc_string = tensor.doc_string
        header = 1 + math.ceil(needed.bit_length() / 7)  # the field's tag, and its length in groups of 7 bits
        if tensor.ByteSize() - rest.ByteSize() == header + needed:
            return True
    return len(tensor.raw_data) == needed


def _check_typed_data(tensor: onnx.TensorProto, elements: int, what: str) -> None:
    """Check a tensor whose values stand in a field of their type."""
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    count = len(getattr(tensor, field))
    complex_type = np.issubdtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), np.complexfloating)
    needed = elements * 2 if complex_type else elements
    if count != needed:
        raise RewriteError(f"{what} is truncated: it has {count} values of {needed}")
    if needed * 8 <= _SMALL:
        try:
            numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:  # a value that its type cannot hold
            raise RewriteError(f"{what} cannot be read: {error}") from error
