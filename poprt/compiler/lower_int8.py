"""Give the engine its own operator for an integer product that becomes float at once.

MatMulInteger, Cast and the Mul by the scales of the columns become MatMulIntegerToFloat, which scales its sums while
they are in the cache. The engine fuses these itself only where the activation has one scale for all rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

_DOMAIN = "com.microsoft"
_ONE, _MIDDLE = "poprt_int8_activation_scale", "poprt_int8_weight_zero_point"


def lower_int8(model: onnx.ModelProto) -> int:
    """Fuse in the main graph, in place; how many products were fused."""
    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    kept = {value.name for value in graph.output}
    scales = {t.name for t in graph.initializer if len(t.dims) == 1 and t.data_type == onnx.TensorProto.FLOAT}
    fused: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMulInteger" or len(node.input) != 3:
            continue
        cast = _only_reader(node, readers, kept)
        product = _only_reader(cast, readers, kept) if cast is not None and _is_to_float(cast) else None
        if cast is None or product is None or product.op_type != "Mul" or not scales.intersection(product.input):
            continue
        scale = next(name for name in product.input if name in scales)
        fused[product.output[0]] = _product(node, scale, product.output[0])
        dropped |= {node.output[0], cast.output[0]}
    if fused:
        _replace(model, fused, dropped)
    return len(fused)


def unsign_weights(model: onnx.ModelProto, weights: dict[str, npt.NDArray[Any]]) -> int:
    """Store the int8 weights of the fused products as uint8 with zero point 128, in place; how many.

    The numbers stay the same. A CPU without 8-bit dot products multiplies uint8 by uint8 exactly, if more slowly; with
    int8 its sums may overflow.

    Args:
        model: after :func:`lower_int8`.
        weights: the tensors that are kept outside of it, by name.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat" and len(node.input) == 5]
    readers = Counter(name for node in model.graph.node for name in node.input)
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


def _is_int8(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == onnx.TensorProto.INT8


def _unsign(tensor: onnx.TensorProto, weights: dict[str, npt.NDArray[Any]]) -> None:
    flip = np.uint8(128)  # adding 128 turns the sign bit and nothing else
    if tensor.name in weights:
        weights[tensor.name] = weights[tensor.name].view(np.uint8) ^ flip
        tensor.data_type = onnx.TensorProto.UINT8
    else:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).view(np.uint8) ^ flip, tensor.name))


def _only_reader(
    node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], kept: set[str]
) -> onnx.NodeProto | None:
    name = node.output[0]
    return readers[name][0] if len(readers[name]) == 1 and name not in kept else None


def _is_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == onnx.TensorProto.FLOAT for a in node.attribute)


def _product(node: onnx.NodeProto, scale: str, output: str) -> onnx.NodeProto:
    activation, weight, zero_point = node.input
    inputs = [activation, weight, _ONE, scale, zero_point]
    return helper.make_node("MatMulIntegerToFloat", inputs, [output], node.name, domain=_DOMAIN)


def _replace(model: onnx.ModelProto, fused: dict[str, onnx.NodeProto], dropped: set[str]) -> None:
    graph = model.graph
    nodes = [fused.get(node.output[0], node) for node in graph.node if node.output[0] not in dropped]
    del graph.node[:]
    graph.node.extend(nodes)
    values = [value for value in graph.value_info if value.name not in dropped]
    del graph.value_info[:]
    graph.value_info.extend(values)
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), _ONE))
    if all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
