"""How many bytes elements take where a model stores them."""

from __future__ import annotations

import onnx

#: Elements of such types share a byte. numpy has no type for them, and its stand-ins take a byte each.
_BITS = {name: bits for bits, names in ((4, ("UINT4", "INT4", "FLOAT4E2M1")), (2, ("UINT2", "INT2"))) for name in names}


def stored_bytes(elements: int, data_type: int) -> int:
    """Bytes of one tensor; the last byte of one whose elements share bytes may be partly filled.

    Args:
        elements: how many it has.
        data_type: their ``TensorProto.DataType``.
    """
    bits = _BITS.get(onnx.TensorProto.DataType.Name(data_type))
    if bits is None:
        bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    return -(-elements * int(bits) // 8)
