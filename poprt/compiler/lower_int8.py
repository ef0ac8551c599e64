"""Integer products on CPUs that have no dot products of 8-bit numbers."""

from __future__ import annotations

import onnx

from passes.precision.unsign_weights import UnsignWeights
from poprt.engine.cpu import lacks_int8_dot_products


def with_exact_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its integer products as the compiler stores them for this CPU; itself where they are so already.

    On an x86 CPU without 8-bit dot products a run of the model as it is may overflow, and a compiled one does not.
    """
    if not lacks_int8_dot_products() or all(node.op_type != "MatMulInteger" for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return UnsignWeights().run(copy)
