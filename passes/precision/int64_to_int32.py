"""Take int64 inputs as int32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, subgraphs
from passes.building import add_node
from passes.graph_io import opset_imports
from passes.precision.int32_rules import takes_int32, type_group
from passes.precision.names import tensor_names, unique_name
from passes.registry import register
from passes.shapes.dtypes import has_dtype, infer_dtypes

_INT32 = np.iinfo(np.int32)


@register("int64_to_int32")
class Int64ToInt32(GraphPass):
    """Make the int64 inputs of the main graph int32, and what is computed from them as far as kernels exist.

    int32 flows on through operators that take it and whose other operands are int32 too or constants within range.
    Before all others a Cast gives the int64 back: shapes, subgraphs, other domains. Outputs keep their type. Values
    are taken to be ids, masks and positions: arithmetic on them that needs more than 31 bits would wrap.
    Constants outside int32 (an open end of a Slice) stay int64.

    Does nothing where no input is int64. Subgraphs and local functions keep their int64, fed by a Cast.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Rewrite the main graph."""
        result = PassResult()
        wide_inputs = [t for t in graph.inputs if t.type == "tensor_type" and has_dtype(t, np.int64)]
        if wide_inputs:
            infer_dtypes(graph)
            _Narrowing(graph, result).run(wide_inputs)
        return result


class _Narrowing:
    def __init__(self, graph: gs.Graph, result: PassResult) -> None:
        self._graph, self._result = graph, result
        self._opsets = opset_imports(graph)
        self._names = tensor_names(graph)
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._narrow: dict[int, gs.Tensor] = {}  # id of a tensor that was int64 -> its int32 form
        self._wide: dict[int, gs.Tensor] = {}  # id of the int32 form -> its int64 form
        self._constants: dict[int, gs.Constant] = {}  # id of an int64 constant -> its int32 copy
        self._nodes: list[gs.Node] = []

    def run(self, inputs: Iterable[gs.Tensor]) -> None:
        for tensor in inputs:
            tensor.dtype = np.dtype(np.int32)
            self._narrow[id(tensor)] = tensor
            self._result.count("inputs made int32")
            if id(tensor) in self._outputs:
                self._result.refuse(tensor.name, "is an input and an output at once, so the output is int32 too")
        for node in list(self._graph.nodes):
            self._visit(node)
        self._graph.nodes[:] = self._nodes

    def _visit(self, node: gs.Node) -> None:
        for index, tensor in enumerate(node.inputs):
            if id(tensor) in self._narrow:
                node.inputs[index] = self._narrow[id(tensor)]
        for nested in subgraphs(node):
            self._widen_reads(nested)
        groups = {type_group(node, i, self._opsets) for i, t in enumerate(node.inputs) if self._is_narrow(t)}
        narrowed = {group for group in groups if self._narrow_group(node, group)}
        self._nodes.append(node)
        for index, tensor in enumerate(list(node.outputs)):
            if has_dtype(tensor, np.int64) and type_group(node, index, self._opsets, output=True) in narrowed:
                self._narrow_output(node, index)

    def _is_narrow(self, tensor: gs.Tensor) -> bool:
        return id(tensor) in self._narrow

    def _narrow_group(self, node: gs.Node, group: str) -> bool:
        """Bring the inputs of one type variable to one type; say whether that is int32."""
        members = [i for i in range(len(node.inputs)) if type_group(node, i, self._opsets) == group]
        others = [i for i in members if not self._is_narrow(node.inputs[i]) and has_dtype(node.inputs[i], np.int64)]
        unknown = any(node.inputs[i].name and node.inputs[i].dtype is None for i in members)
        accepted = not unknown and all(takes_int32(node, i, self._opsets) for i in members)
        if accepted and all(_fits(node.inputs[i]) for i in others):
            for index in others:
                node.inputs[index] = self._constant(node.inputs[index])
            return True
        for index in members:
            if self._is_narrow(node.inputs[index]):
                node.inputs[index] = self._widen(node.inputs[index])
        return False

    def _narrow_output(self, node: gs.Node, index: int) -> None:
        tensor = node.outputs[index]
        if id(tensor) not in self._outputs:
            tensor.dtype = np.dtype(np.int32)
            self._narrow[id(tensor)] = tensor
            return
        form = gs.Variable(unique_name(f"{tensor.name}_int32", self._names), np.dtype(np.int32), tensor.shape)
        node.outputs[index] = form
        self._narrow[id(tensor)] = self._narrow[id(form)] = form
        self._wide[id(form)] = tensor
        self._add_cast(form, tensor)

    def _constant(self, tensor: gs.Tensor) -> gs.Constant:
        if id(tensor) not in self._constants:
            values = _constant_values(tensor)
            assert values is not None, "only constants that fit come here"
            name = unique_name(f"{tensor.name}_int32", self._names)
            self._constants[id(tensor)] = gs.Constant(name, values.astype(np.int32))
        return self._constants[id(tensor)]

    def _widen(self, narrow: gs.Tensor) -> gs.Tensor:
        if id(narrow) not in self._wide:
            name = unique_name(f"{narrow.name}_int64", self._names)
            wide = gs.Variable(name, np.dtype(np.int64), narrow.shape)
            self._wide[id(narrow)] = wide
            self._add_cast(narrow, wide)
        return self._wide[id(narrow)]

    def _add_cast(self, source: gs.Tensor, target: gs.Tensor) -> None:
        to = onnx.helper.np_dtype_to_tensor_dtype(target.dtype)
        add_node(self._nodes, "Cast", f"{target.name}_cast", [source], into=target, to=to)
        self._result.count("casts inserted")

    def _widen_reads(self, scope: gs.Graph) -> None:
        """Let a subgraph read the int64 form of the outer tensors that are int32 now."""
        for node in scope.nodes:
            for index, tensor in enumerate(node.inputs):
                if id(tensor) in self._narrow:
                    node.inputs[index] = self._widen(self._narrow[id(tensor)])
            for nested in subgraphs(node):
                self._widen_reads(nested)


def _constant_values(tensor: gs.Tensor) -> np.ndarray[Any, Any] | None:
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    producer = tensor.inputs[0] if tensor.inputs else None
    if producer is None or producer.op != "Constant":
        return None
    value = producer.attrs.get("value")
    if isinstance(value, gs.Constant):
        return np.asarray(value.values)
    listed = producer.attrs.get("value_ints", producer.attrs.get("value_int"))
    return None if listed is None or isinstance(listed, gs.Node.AttributeRef) else np.array(listed, np.int64)


def _fits(tensor: gs.Tensor) -> bool:
    values = _constant_values(tensor)
    if values is None:
        return False
    return values.size == 0 or bool(values.min() >= _INT32.min and values.max() <= _INT32.max)
