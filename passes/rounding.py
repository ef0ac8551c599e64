"""Which operators round what they read to 8 bits as they run: an answer then moves in steps."""

from __future__ import annotations

import onnx

#: The accuracy_level at which MatMulNBits rounds its input to 8 bits, in blocks of each row.
_INT8_LEVEL = 4


def rounds_to_8_bits(node: onnx.NodeProto) -> bool:
    """Whether a node rounds what it reads to 8 bits as it runs. A table of few bits is only read."""
    if node.op_type == "MatMulNBits":
        return any(item.name == "accuracy_level" and item.i == _INT8_LEVEL for item in node.attribute)
    return node.op_type != "GatherBlockQuantized" and ("Integer" in node.op_type or "Quantize" in node.op_type)
