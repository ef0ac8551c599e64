"""Which rank each tensor has, as far as that is proved.

onnxruntime's symbolic inference guesses a rank where it meets an operator that it does not know, and onnx's gives up at
a Reshape to extents that are computed. What is decided by a rank must not rest on a guess: this walk asks onnx for one
node after the other, and adds that a Reshape has as many axes as its second input has places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import subgraphs
from passes.graph_io import opset_imports
from passes.node_attributes import export_node
from passes.operators import BROADCASTING
from passes.shapes.dtypes import find_schema

#: An extent, or None where it is open.
Extents: TypeAlias = "tuple[int | None, ...]"
#: Numbers of a constant that says how: no tensor has more axes.
_MOST_PLACES = 64
#: The operators whose rank is the length of an input: which input.
_AS_LONG_AS = {"Reshape": 1, "ConstantOfShape": 0, "RandomUniform": 0, "RandomNormal": 0}


class ProvedShapes:
    """The shapes of the tensors of ``graph`` and its subgraphs; an open extent is None.

    The element types must be set, as far as they are known (:func:`passes.shapes.dtypes.infer_dtypes`), and the nodes
    in topological order. Local functions are left out: a function is called with tensors of any rank.

    Args:
        graph: the main graph.
        contents: what else is known of lists of extents: gives those that a tensor holds, None in the place of one that
            is not known, or None for a tensor of which nothing is.
        walk: whether to look at all nodes now. Otherwise the caller does, by :meth:`visit`, in order.
    """

    def __init__(
        self, graph: gs.Graph, contents: Callable[[gs.Tensor], Extents | None] = lambda _: None, *, walk: bool = True
    ) -> None:
        self._contents = contents
        self._opsets = opset_imports(graph)
        self._imports = [onnx.helper.make_opsetid(*item) for item in self._opsets.items()]
        self._types: dict[int, onnx.TypeProto] = {}
        self._keep = graph  # the tensors are known by their id
        if walk:
            self._walk(graph)

    def shape(self, tensor: gs.Tensor) -> Extents | None:
        """The extents of ``tensor``; None where its rank is not known."""
        if tensor.shape is not None:
            return tuple(n if isinstance(n, int) and n >= 0 else None for n in tensor.shape)
        kind = self._types.get(id(tensor))
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim)

    def _walk(self, graph: gs.Graph) -> None:
        for node in graph.nodes:
            self.visit(node)

    def visit(self, node: gs.Node) -> None:
        """Note the shapes of what ``node`` gives."""
        for nested in subgraphs(node):
            self._walk(nested)
        shapes = self._of_branches(node) if node.op == "If" else self._of_node(node)
        for index, shape in shapes.items():
            self._note(node.outputs[index], shape)

    def _note(self, tensor: gs.Tensor, shape: Extents) -> None:
        if tensor.name and isinstance(tensor, gs.Variable):
            self._types[id(tensor)] = _type(tensor.dtype, shape)

    def _of_branches(self, node: gs.Node) -> Mapping[int, Extents]:
        """What both branches agree on."""
        shapes = {}
        for index, tensors in enumerate(zip(*(graph.outputs for graph in subgraphs(node)), strict=False)):
            each = [shape for shape in map(self.shape, tensors) if shape is not None]
            if len(each) == 2 and len(each[0]) == len(each[1]):
                shapes[index] = tuple(a if a == b else None for a, b in zip(*each, strict=True))
        return shapes

    def _of_node(self, node: gs.Node) -> Mapping[int, Extents]:
        asked = self._asked_of_onnx(node)
        if node.domain or not node.outputs or (0 in asked and not self._is_list(asked[0])):
            return asked
        own = self._broadcast(node) if node.op in BROADCASTING else self._by_length(node)
        return asked if own is None else {0: own}

    def _broadcast(self, node: gs.Node) -> Extents | None:
        """[B, S], [3, 1, S] -> [3, B, S]: onnx has no rule for LessOrEqual of opset 12, a function then."""
        shapes = [self.shape(tensor) for tensor in node.inputs if tensor.name]
        reversed_shapes = [shape[::-1] for shape in shapes if shape is not None]
        if len(reversed_shapes) < len(shapes):
            return None
        by_axis = [
            {extent for extent in extents if extent != 1} for extents in zip_longest(*reversed_shapes, fillvalue=1)
        ]
        return tuple(1 if not axis else axis.pop() if len(axis) == 1 else None for axis in by_axis)[::-1]

    @staticmethod
    def _is_list(shape: Extents) -> bool:
        """Whether it is one axis of unknown extent: a list of extents, perhaps, whose length is a rank."""
        return shape == (None,)

    def _by_length(self, node: gs.Node) -> Extents | None:
        """The shape of what has as many axes as an input has places."""
        if node.op in _AS_LONG_AS and len(node.inputs) > _AS_LONG_AS[node.op]:
            target = node.inputs[_AS_LONG_AS[node.op]]
            rank, listed = self._length(target), self._contents(target)
            if node.op == "Reshape" and rank == 1:
                return (_size(self.shape(node.inputs[0])),)
            if listed is not None:
                return tuple(extent if extent is not None and extent > 0 else None for extent in listed)
            return None if rank is None else (None,) * rank
        if node.op == "Expand":
            length, data = self._length(node.inputs[1]), self.shape(node.inputs[0])
            return None if length is None or data is None else (None,) * max(length, len(data))
        return None

    def _length(self, tensor: gs.Tensor) -> int | None:
        shape = self.shape(tensor)
        return shape[0] if shape is not None and len(shape) == 1 else None

    def _asked_of_onnx(self, node: gs.Node) -> dict[int, Extents]:
        schema = find_schema(node, self._opsets)
        if schema is None or any(True for _ in subgraphs(node)):
            return {}
        inputs, proto = [tensor for tensor in node.inputs if tensor.name], export_node(node)
        as_they_are = {tensor.name: _type(tensor.dtype, self.shape(tensor)) for tensor in inputs}
        as_floats = {tensor.name: _type(None, self.shape(tensor)) for tensor in inputs}
        lists = {tensor.name: _list(tensor) for tensor in inputs if _is_small_list(tensor)}
        lists |= {t.name: value for t in inputs if t.name not in lists and (value := self._whole_list(t)) is not None}
        answers = self._answers(schema, proto, as_they_are, lists) or self._answers(schema, proto, as_floats, {})
        shapes: dict[int, Extents] = {}
        for index, tensor in enumerate(node.outputs):
            kind = answers.get(tensor.name)
            if kind is not None and kind.HasField("tensor_type") and kind.tensor_type.HasField("shape"):
                dims = kind.tensor_type.shape.dim
                shapes[index] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
        return shapes

    def _whole_list(self, tensor: gs.Tensor) -> onnx.TensorProto | None:
        """The extents that ``tensor`` holds, where all are known."""
        listed = self._contents(tensor)
        if listed is None or None in listed or len(listed) > _MOST_PLACES:
            return None
        return onnx.numpy_helper.from_array(np.array(listed, np.int64), tensor.name)

    def _answers(
        self,
        schema: onnx.defs.OpSchema,
        node: onnx.NodeProto,
        types: dict[str, onnx.TypeProto],
        values: dict[str, onnx.TensorProto],
    ) -> dict[str, onnx.TypeProto]:
        try:
            answers: dict[str, onnx.TypeProto] = onnx.shape_inference.infer_node_outputs(
                schema, node, types, values, opset_imports=self._imports
            )
        except Exception:  # a type or an extent that it misses or disputes, reported by errors of every kind
            return {}
        return answers


def _is_small_list(tensor: gs.Tensor) -> bool:
    """Whether it is a constant that may say how: axes, extents."""
    return isinstance(tensor, gs.Constant) and tensor.dtype == np.int64 and math.prod(tensor.shape) <= _MOST_PLACES


def _list(tensor: gs.Constant) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(tensor.values, tensor.name)


def _size(shape: Extents | None) -> int | None:
    """How many elements a tensor of this shape has."""
    extents = None if shape is None else [extent for extent in shape if extent is not None]
    return math.prod(extents) if extents is not None and shape is not None and len(extents) == len(shape) else None


def _type(dtype: Any, shape: Extents | None) -> onnx.TypeProto:
    """An unknown element type counts as float: no rank depends on it."""
    element: int = onnx.TensorProto.FLOAT
    if isinstance(dtype, int):
        element = dtype
    elif dtype is not None:
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    declared: onnx.TypeProto = onnx.helper.make_tensor_type_proto(element, shape)
    return declared
