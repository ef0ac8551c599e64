"""Compute a float16 model in float32, for an engine without fast float16.

The whole graph changes, with its subgraphs and local functions: every tensor that was float16 is float32. Large weights
stay float16 in the file and are widened when they are loaded, which is exact. The caller's types do not change: the
runner converts at the border.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import external_data_helper, numpy_helper

from poprt.compiler.walk import all_nodes, nested_graphs

_HALF, _FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT

#: Integer attributes that hold a tensor type: of Cast, random generators, quantization, windows and attention.
_TYPE_ATTRIBUTES = frozenset(
    {"to", "dtype", "output_dtype", "output_datatype", "precision", "softmax_precision", "stash_type"}
)

#: The constants of GELU by their float16 values. An engine that fuses GELU looks for them to float32 precision.
_GELU_CONSTANTS = {
    float(np.float16(constant)): constant
    for constant in (math.sqrt(2), math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715)
}


def uses_half(model: onnx.ModelProto) -> bool:
    """Whether any tensor of the model is float16, as far as the model says so."""
    graphs = [model.graph, *nested_graphs(model)]
    values = [item.type for graph in graphs for item in [*graph.input, *graph.output, *graph.value_info]]
    return (
        any(tensor.data_type == _HALF for graph in graphs for tensor in graph.initializer)
        or any(kind.tensor_type.elem_type == _HALF for kind in values)
        or any(_makes_half(attribute) for node in all_nodes(model) for attribute in node.attribute)
    )


def lower_half(model: onnx.ModelProto) -> int:
    """Make every float16 tensor of ``model`` float32, in place; give the number of places changed.

    An external initializer is only declared float32: whoever loads its data has to widen it.
    """
    changes = 0
    for graph in [model.graph, *nested_graphs(model)]:
        changes += sum(_widen_tensor(tensor) for tensor in graph.initializer)
        changes += sum(_widen_tensor(sparse.values) for sparse in graph.sparse_initializer)
        changes += sum(_widen_type(item.type) for item in [*graph.input, *graph.output, *graph.value_info])
    for function in model.functions:
        changes += sum(_widen_type(item.type) for item in function.value_info)
        changes += sum(_widen_attribute(attribute) for attribute in function.attribute_proto)
    for node in all_nodes(model):
        changes += sum(_widen_attribute(attribute) for attribute in node.attribute)
    return changes


def _makes_half(attribute: onnx.AttributeProto) -> bool:
    named = attribute.name in _TYPE_ATTRIBUTES and attribute.i == _HALF
    return named or (attribute.HasField("t") and attribute.t.data_type == _HALF)


def _widen_attribute(attribute: onnx.AttributeProto) -> int:
    changes = sum(_widen_tensor(tensor) for tensor in attribute.tensors)
    if attribute.HasField("t"):
        changes += _widen_tensor(attribute.t)
    if attribute.HasField("tp"):
        changes += _widen_type(attribute.tp)
    if attribute.name in _TYPE_ATTRIBUTES and attribute.type == onnx.AttributeProto.INT and attribute.i == _HALF:
        attribute.i = _FLOAT
        changes += 1
    if attribute.name == "dataType" and attribute.s == b"FLOAT16":  # of ai.graphcore AttentionMask
        attribute.s = b"FLOAT"
        changes += 1
    return changes


def _widen_tensor(tensor: onnx.TensorProto) -> int:
    if tensor.data_type != _HALF:
        return 0
    if external_data_helper.uses_external_data(tensor):
        tensor.data_type = _FLOAT
    else:
        tensor.CopyFrom(numpy_helper.from_array(_widened(numpy_helper.to_array(tensor)), tensor.name))
    return 1


def _widened(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array`` in float32. A scalar that float16 has rounded from a constant of GELU gets its digits back."""
    wide = array.astype(np.float32)
    if wide.size == 1:
        wide[...] = _GELU_CONSTANTS.get(wide.item(), wide)
    return wide


def _widen_type(kind: Any) -> int:
    """Widen a TypeProto, which may hold another one (a sequence or an optional)."""
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        held = getattr(kind, which)
        if held.elem_type != _HALF:
            return 0
        held.elem_type = _FLOAT
        return 1
    if which in ("sequence_type", "optional_type"):
        return _widen_type(getattr(kind, which).elem_type)
    if which == "map_type":
        return _widen_type(kind.map_type.value_type)
    return 0
