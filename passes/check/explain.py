"""Why onnx itself refuses a model: asked only after a pass has failed on it, for it costs a copy of the graph."""

from __future__ import annotations

import onnx
from onnx import helper
from onnx.external_data_helper import uses_external_data

#: Elements of the largest initializer that is copied with the graph.
_LARGEST_COPIED = 1024


def why_invalid(model: onnx.ModelProto) -> str | None:
    """What onnx's checker, with strict shape inference, says against ``model``, on one line; None where it is content.

    Its large initializers are not copied: the checker sees inputs of the same types.
    """
    try:
        onnx.checker.check_model(_without_large_weights(model), full_check=True)
    except (UnicodeError, ValueError, TypeError, MemoryError):  # of the copy, or of protobuf: nothing about the model
        return None
    except Exception as error:  # the checker's and shape inference's exceptions share no base class of their own
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    # One that is kept elsewhere is an input as well: the checker would look for its file.
    large = [t for t in graph.initializer if _elements(t) > _LARGEST_COPIED or uses_external_data(t)]
    names = {tensor.name for tensor in large}
    declared = {value.name for value in graph.input}
    copy = onnx.ModelProto(
        ir_version=max(model.ir_version, 8),  # older ones want each initializer among the inputs
        opset_import=model.opset_import,
        functions=model.functions,
    )
    copy.graph.name = graph.name or "model"
    for field in ("node", "input", "output", "value_info"):
        getattr(copy.graph, field).extend(getattr(graph, field))
    copy.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in names)
    copy.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in large
        if tensor.name not in declared
    )
    return copy


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for extent in tensor.dims:
        count *= extent
    return count
