"""How large a model is, found without serialising it."""

from __future__ import annotations

import math

import onnx

#: Above this many bytes of weights a model does not travel in one protobuf message, which ends at 2 GiB.
LARGEST_MESSAGE = 1_800_000_000


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers and constants of the main graph: nearly all of a model."""
    constants = (
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.HasField("t")
    )
    return sum(map(_tensor_bytes, model.graph.initializer)) + sum(map(_tensor_bytes, constants))


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * itemsize)
