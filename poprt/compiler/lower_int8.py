"""Integer products on CPUs that have no dot products of 8-bit numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from poprt.compiler.walk import subgraphs, walk_nodes
from poprt.engine.cpu import lacks_int8_dot_products

_MIDDLE = "poprt_int8_weight_zero_point"


def unsign_weights(model: onnx.ModelProto, weights: dict[str, npt.NDArray[Any]]) -> int:
    """Store the int8 weights of the main graph's MatMulInteger as uint8 with zero point 128, in place; how many.

    The numbers stay the same. A CPU without 8-bit dot products multiplies uint8 by uint8 exactly, if more slowly; by
    int8 it adds pairs of products in 16 bits, which may overflow.

    Args:
        model: the engine's graph.
        weights: the tensors that are kept outside of it, by name.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger" and len(node.input) == 3]
    readers = _readers(model.graph)
    reads = Counter(node.input[1] for node in products)
    changed = {name for name in reads if _is_int8(tensors.get(name)) and reads[name] == readers[name]}
    for name in changed:
        _unsign(tensors[name], weights)
    for node in products:
        if node.input[1] in changed:
            node.input.append(_MIDDLE)
    if changed:
        model.graph.initializer.append(numpy_helper.from_array(np.array(128, np.uint8), _MIDDLE))
    return len(changed)


def with_exact_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its integer products as the compiler stores them for this CPU; itself where they are so already.

    On an x86 CPU without 8-bit dot products a run of the model as it is may overflow, and a compiled one does not.
    """
    if not lacks_int8_dot_products() or all(node.op_type != "MatMulInteger" for node in model.graph.node):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made if unsign_weights(made, {}) else model


def _readers(graph: onnx.GraphProto) -> Counter[str]:
    """How often each tensor of ``graph`` is read: by nodes, by those of nested graphs, and as an output."""
    nested = [inner for outer in walk_nodes(graph.node) for inner in subgraphs(outer)]
    found = Counter(name for node in walk_nodes(graph.node) for name in node.input)
    found.update(item.name for part in (graph, *nested) for item in part.output)
    return found


def _is_int8(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == onnx.TensorProto.INT8


def _unsign(tensor: onnx.TensorProto, weights: dict[str, npt.NDArray[Any]]) -> None:
    flip = np.uint8(128)  # adding 128 turns the sign bit and nothing else
    if tensor.name in weights:
        weights[tensor.name] = weights[tensor.name].view(np.uint8) ^ flip
        tensor.data_type = onnx.TensorProto.UINT8
    else:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).view(np.uint8) ^ flip, tensor.name))
