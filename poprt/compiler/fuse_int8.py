"""Cheaper operators of the engine for products that the converter wrote in int8. The numbers stay the same.

Two places, each one pass over memory less or two:

- ``QuantizeLinear(x / step, 1, z)`` becomes one QuantizeLinear with a scale for each row. The engine does that for one
  axis of any tensor, so the rows are laid out along one axis first, which moves no data.
- ``Cast(MatMulInteger(...)) * scale`` becomes MatMulIntegerToFloat, which scales its sums while they are in the cache.
  The engine fuses these itself only where the activation has one scale for all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from poprt.compiler.walk import subgraphs, walk_nodes

_DOMAIN = "com.microsoft"
_ONE, _FLAT = "poprt_int8_one", "poprt_int8_flat"
_CONSTANTS: dict[str, NDArray[Any]] = {_ONE: np.array(1, np.float32), _FLAT: np.array([-1], np.int64)}
_RESHAPE_KEEPS_ZERO = 14  # from this opset on a target of 0 can mean an extent of 0
_FLOAT = onnx.TensorProto.FLOAT


def fuse_int8(model: onnx.ModelProto) -> tuple[int, int]:
    """Fuse in the main graph, in place.

    Returns:
        How many quantisations and how many products were fused.
    """
    view = _View(model.graph)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    made: dict[str, list[onnx.NodeProto]] = {}
    dropped: set[str] = set()
    counts = [0, 0]
    for node in model.graph.node:
        product = node.op_type == "MatMulInteger"
        if product:
            found = _fuse_product(node, view)
        elif node.op_type == "QuantizeLinear" and opset >= _RESHAPE_KEEPS_ZERO:
            found = _fuse_quantisation(node, view)
        else:
            continue
        if found is not None:
            nodes, between = found
            made[nodes[-1].output[0]] = nodes
            dropped |= between
            counts[product] += 1
    if made:
        _replace(model, made, dropped)
    return counts[0], counts[1]


class _View:
    """Who makes and who reads each tensor of a graph, and its initializers."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._readers: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.input}
        self._reads = Counter(name for node in graph.node for name in node.input)
        self._reads.update(item.name for item in graph.output)
        for inner in walk_nodes(node for outer in graph.node for nested in subgraphs(outer) for node in nested.node):
            self._reads.update(inner.input)
        for outer in walk_nodes(graph.node):
            self._reads.update(item.name for nested in subgraphs(outer) for item in nested.output)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node of this graph that reads ``name`` where nothing else does."""
        return self._readers.get(name) if self._reads[name] == 1 else None

    def scalar(self, name: str) -> onnx.TensorProto | None:
        """The initializer ``name`` if it has no axes; those are never replaceable weights."""
        tensor = self.constants.get(name)
        return tensor if tensor is not None and not tensor.dims else None


def _fuse_product(node: onnx.NodeProto, view: _View) -> tuple[list[onnx.NodeProto], set[str]] | None:
    """MatMulInteger, Cast and Mul as one node; and the tensors that vanish."""
    if len(node.input) < 3 or any(view.scalar(name) is None for name in node.input[2:]):
        return None
    weight = view.constants.get(node.input[1])
    cast = view.only_reader(node.output[0])
    if weight is None or len(weight.dims) != 2 or cast is None or not _is_to_float(cast):
        return None
    scaling = view.only_reader(cast.output[0])
    if scaling is None or scaling.op_type != "Mul":
        return None
    scale = scaling.input[1] if scaling.input[0] == cast.output[0] else scaling.input[0]
    held = view.constants.get(scale)
    if held is None or held.data_type != _FLOAT or list(held.dims) != [weight.dims[1]]:
        return None
    inputs = [*node.input[:2], _ONE, scale, *node.input[2:]]
    fused = helper.make_node("MatMulIntegerToFloat", inputs, list(scaling.output), node.name, domain=_DOMAIN)
    return [fused], {node.output[0], cast.output[0]}


def _is_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(item.name == "to" and item.i == _FLOAT for item in node.attribute)


def _fuse_quantisation(node: onnx.NodeProto, view: _View) -> tuple[list[onnx.NodeProto], set[str]] | None:
    """Div by the steps of the rows and QuantizeLinear as one QuantizeLinear; and the tensor that vanishes."""
    if len(node.input) != 3 or node.attribute:
        return None
    divide = view.makers.get(node.input[0])
    one, point = view.scalar(node.input[1]), view.scalar(node.input[2])
    if divide is None or divide.op_type != "Div" or one is None or point is None:
        return None
    if view.only_reader(node.input[0]) is None or one.data_type != _FLOAT or numpy_helper.to_array(one) != 1:
        return None
    values, steps = divide.input
    if not _is_step_of_rows(steps, values, view):
        return None
    return list(_row_wise(node, values, steps, point)), {node.input[0]}


def _is_step_of_rows(steps: str, values: str, view: _View) -> bool:
    """Whether ``steps`` has one number for each row of ``values``: the Max of its scaled extremes and of scalars."""
    largest = view.makers.get(steps)
    if largest is None or largest.op_type != "Max":
        return False
    parts = [name for name in largest.input if view.scalar(name) is None]
    return bool(parts) and all(_is_scaled_extreme(name, values, view) for name in parts)


def _is_scaled_extreme(name: str, values: str, view: _View) -> bool:
    scaled = view.makers.get(name)
    if scaled is None or scaled.op_type != "Mul" or view.scalar(scaled.input[1]) is None:
        return False
    reduced = view.makers.get(scaled.input[0])
    return (
        reduced is not None
        and reduced.op_type in ("ReduceMax", "ReduceMin")
        and reduced.input[0] == values
        and all(item.i == 1 for item in reduced.attribute if item.name == "keepdims")
        and _reduction_axes(reduced, view) == [-1]
    )


def _reduction_axes(node: onnx.NodeProto, view: _View) -> list[int]:
    if len(node.input) > 1:
        tensor = view.constants.get(node.input[1])
        return [] if tensor is None else [int(axis) for axis in np.ravel(numpy_helper.to_array(tensor))]
    return [axis for item in node.attribute if item.name == "axes" for axis in item.ints]


def _row_wise(node: onnx.NodeProto, values: str, steps: str, point: onnx.TensorProto) -> Iterator[onnx.NodeProto]:
    """Quantise ``values`` as [rows, columns] with ``steps`` as [rows], and give the result its axes back."""
    result = node.output[0]
    rows, scale, count, points, levels, shape = (
        f"{result}_{part}" for part in ("rows", "row_scale", "row_count", "row_points", "row_levels", "shape")
    )
    fill = numpy_helper.from_array(numpy_helper.to_array(point).reshape(1))
    yield helper.make_node("Flatten", [values], [rows], rows, axis=-1)
    yield helper.make_node("Reshape", [steps, _FLAT], [scale], scale)
    yield helper.make_node("Shape", [scale], [count], count)
    yield helper.make_node("ConstantOfShape", [count], [points], points, value=fill)
    yield helper.make_node("QuantizeLinear", [rows, scale, points], [levels], levels, axis=0)
    yield helper.make_node("Shape", [values], [shape], shape)
    yield helper.make_node("Reshape", [levels, shape], [result], node.name, allowzero=1)


def _replace(model: onnx.ModelProto, made: dict[str, list[onnx.NodeProto]], dropped: set[str]) -> None:
    graph = model.graph
    nodes = [new for node in graph.node if node.output[0] not in dropped for new in made.get(node.output[0], [node])]
    values = [value for value in graph.value_info if value.name not in dropped]
    used = {name for node in nodes for name in node.input}
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.value_info.extend(values)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in _CONSTANTS.items() if name in used)
    if all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
