"""Give the engine its own operator for an integer product that becomes float at once.

MatMulInteger, Cast and the Mul by the scales of the columns become MatMulIntegerToFloat, which scales its sums while they
are in the cache. The engine fuses these itself only where the activation has one scale for all rows.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import helper, numpy_helper

_DOMAIN = "com.microsoft"
_ONE = "poprt_int8_activation_scale"


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
