"""Fold shape arithmetic that became constant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from passes.base import GraphPass, PassResult, node_label, subgraphs, walk_graphs
from passes.cleanup.rewiring import drop_nodes
from passes.errors import RewriteError
from passes.graph_io import opset_imports
from passes.node_attributes import export_node
from passes.operators import WHOLE, Family, members
from passes.registry import register
from passes.shapes.baked_shapes import constant_ints
from passes.shapes.packed import is_unpacked_inside
from passes.shapes.ranks import ProvedShapes

Array = np.ndarray[Any, Any]

_MEASURES = members(Family.EXTENT)
_LARGEST = 1024  # elements of a folded result
#: Operators that only move their data, so that known elements stay known beside unknown ones.
_MOVES = members(Family.ORDER, Family.AXES, Family.CUT, Family.JOIN, Family.PICK)
_COMPUTES = WHOLE | {"Cast", "ConstantOfShape", "Expand", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"}


class _Known:
    """An integer or boolean value of which some elements may be unknown."""

    def __init__(self, values: Array, mask: Array) -> None:
        self.values, self.mask = values, mask  # mask: 1 where the element is known

    @property
    def whole(self) -> bool:
        return bool(self.mask.all())


@register("trace_folding")
class TraceFolding(GraphPass):
    """Replace shape arithmetic by constants where the shapes it reads are known.

    Starts at Shape and Size of tensors whose extents are numbers, declared or proved by what is folded before them (of
    those with some unknown extents the known ones are followed through Gather, Slice and Concat), and goes on through
    integer operators with results of at most 1024 elements. A folded tensor keeps its name. Floating-point results are
    left to constant_folding.

    Does nothing in models packed with Unpack: their shape arithmetic reads at run time how much a pack holds.
    Works on the main graph; subgraphs and functions are left alone.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Fold, then drop the nodes that nothing reads any more."""
        result = PassResult()
        if is_unpacked_inside(graph):
            if any(node.op == "Shape" for node in graph.nodes):
                result.refuse("the model", "is packed with Unpack: its shape arithmetic must stay")
            return result
        traced: dict[int, _Known] = {}
        opsets = opset_imports(graph)
        measured = any(node.op in _MEASURES for node in graph.nodes)
        shapes = ProvedShapes(graph, lambda tensor: _extents_in(traced.get(id(tensor))), walk=False)
        for node in graph.nodes:
            if measured and any(tensor.shape is None for tensor in node.outputs):
                shapes.visit(node)
            value = None if node.domain else _evaluate(node, traced, opsets, shapes)
            if value is not None and value.values.size <= _LARGEST:
                traced[id(node.outputs[0])] = value
        outputs = {id(tensor) for tensor in graph.outputs}
        for node in graph.nodes:
            tensor = node.outputs[0] if node.outputs else None
            value = traced.get(id(tensor))
            if tensor is None or value is None or not value.whole or node.op == "Constant":
                continue
            if id(tensor) in outputs:
                result.refuse(node, "its result is an output of the model")
                continue
            node.outputs.clear()
            tensor.to_constant(value.values)
            result.count("tensors folded")
        if result.modified:
            _drop_dead(graph)
        return result


def _drop_dead(graph: gs.Graph) -> None:
    """Remove the nodes that were folded and those that only they read."""
    outputs = {id(tensor) for tensor in graph.outputs}
    while True:
        read = {id(t) for scope in walk_graphs(graph, functions=False) for node in scope.nodes for t in node.inputs}
        dead = [n for n in graph.nodes if not any(id(t) in read or id(t) in outputs for t in n.outputs)]
        if not dead:
            return
        drop_nodes(graph, dead)


def _extents_in(value: _Known | None) -> tuple[int | None, ...] | None:
    """The extents that a vector of int64 holds; None for anything else."""
    if value is None or value.values.ndim != 1 or value.values.dtype != np.int64:
        return None
    return tuple(int(n) if is_told else None for n, is_told in zip(value.values, value.mask, strict=True))


def _evaluate(
    node: gs.Node, traced: Mapping[int, _Known], opsets: Mapping[str, int], shapes: ProvedShapes
) -> _Known | None:
    if node.op == "Shape":
        return _shape(node, shapes.shape(node.inputs[0]))
    if node.op == "Size":
        shape = shapes.shape(node.inputs[0])
        extents = [extent for extent in shape or () if extent is not None]
        whole = shape is not None and len(extents) == len(shape)
        return _constant(np.array(math.prod(extents), np.int64)) if whole else None
    if node.op not in _MOVES | _COMPUTES or len(node.outputs) != 1 or list(subgraphs(node)):
        return None
    operands = [_known_input(tensor, traced) for tensor in node.inputs]
    values = [value for value in operands if value is not None]
    if not values or len(values) != len(operands) or not any(id(tensor) in traced for tensor in node.inputs):
        return None
    if any(value.values.size > _LARGEST for value in values) or _result_size(node, values) > _LARGEST:
        return None
    if all(value.whole for value in values):
        result = _run(node, [value.values for value in values], opsets)
        return _constant(result) if result.dtype.kind in "iub" else None
    if node.op not in _MOVES or (node.op != "Concat" and not all(value.whole for value in values[1:])):
        return None
    moved = values if node.op == "Concat" else values[:1]
    rest = [] if node.op == "Concat" else [value.values for value in values[1:]]
    result = _run(node, [*(value.values for value in moved), *rest], opsets)
    return _Known(result, _run(node, [*(value.mask for value in moved), *rest], opsets))


def _shape(node: gs.Node, shape: Sequence[int | None] | None) -> _Known | None:
    if shape is None:
        return None
    extents = list(shape)[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    values = np.array([0 if n is None else n for n in extents], np.int64)
    return _Known(values, np.array([n is not None for n in extents], np.int64))


def _constant(values: Array) -> _Known:
    return _Known(values, np.ones(values.shape, np.int64))


def _known_input(tensor: gs.Tensor, traced: Mapping[int, _Known]) -> _Known | None:
    if id(tensor) in traced:
        return traced[id(tensor)]
    if isinstance(tensor, gs.Constant):
        whole = not isinstance(tensor.dtype, int) and np.dtype(tensor.dtype).kind in "iub"
        small = whole and math.prod(tensor.shape) <= _LARGEST
        return _constant(np.asarray(tensor.values)) if small else None
    ints = constant_ints(tensor)
    if ints is None:
        return None
    value = tensor.inputs[0].attrs.get("value")
    if isinstance(value, gs.Constant):
        return _constant(np.asarray(value.values))
    return _constant(np.array(ints if "value_ints" in tensor.inputs[0].attrs else ints[0], np.int64))


def _result_size(node: gs.Node, values: list[_Known]) -> int:
    """The size of a result that is not bounded by the sizes of the inputs."""
    if node.op in ("ConstantOfShape", "Expand"):
        return int(np.prod(np.maximum(values[-1].values, 1))) if values[-1].whole else 0
    if node.op == "Range" and all(value.whole for value in values):
        start, limit, step = (int(value.values) for value in values)
        return len(range(start, limit, step or 1))
    return 0


def _run(node: gs.Node, inputs: list[Array], opsets: Mapping[str, int]) -> Array:
    """The node's result, by onnx's reference implementation."""
    proto = export_node(node)
    del proto.input[:]
    proto.input.extend(f"input_{index}" for index in range(len(inputs)))
    proto.output[:] = ["output"]
    proto.ClearField("name")
    kinds = tuple(onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for value in inputs)
    evaluator = _evaluator(proto.SerializeToString(deterministic=True), kinds, opsets[""])
    try:
        results: list[Any] = list(evaluator.run(None, dict(zip(proto.input, inputs, strict=True))))
    except (IndexError, TypeError, ValueError) as error:  # TypeError: how it reports operands that do not broadcast
        shapes = ", ".join(str(list(value.shape)) for value in inputs)
        raise RewriteError(
            f"{node_label(node)} fails on the declared shapes (operands of {shapes}): {error}"
        ) from error
    return np.asarray(results[0])


@lru_cache(maxsize=1024)
def _evaluator(node: bytes, kinds: tuple[int, ...], opset: int) -> ReferenceEvaluator:
    """What runs a node of these types of inputs. Shape arithmetic is the same few nodes many times."""
    proto = onnx.NodeProto.FromString(node)
    values = [
        onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in zip(proto.input, kinds, strict=True)
    ]
    graph = onnx.helper.make_graph([proto], "one_node", values, [onnx.helper.make_empty_tensor_value_info("output")])
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)]))
