"""Rewrites one graph (with its subgraphs) or one local function from float32 to float16."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import PassResult, walk_graphs
from passes.precision.half_rules import HalfRules, Precision
from passes.precision.half_values import HalfValues
from passes.precision.names import tensor_names, unique_name
from passes.shapes.dtypes import DTYPE_ATTRIBUTES, FLOAT, has_dtype

_HALF = np.dtype(np.float16)
_TO_FLOAT, _TO_HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


class HalfWriter:
    """One run over one root: decide for each float32 tensor which forms are needed, then write them."""

    def __init__(self, root: gs.Graph, rules: HalfRules, values: HalfValues, result: PassResult) -> None:
        self._scopes = list(walk_graphs(root, functions=False))
        self._rules, self._values, self._result = rules, values, result
        self._names = tensor_names(root)
        self._wants_half: set[int] = set()
        self._wants_float: set[int] = set()
        self._float_form: dict[int, gs.Tensor] = {}  # id of a tensor -> its float32 form, where there is one
        self._written: set[int] = set()  # ids of nodes that this pass added
        self._keep_alive: list[gs.Tensor] = []  # ids stay unique only as long as their tensors live

    def run(self) -> None:
        """Rewrite the graph in place."""
        for scope in self._scopes:
            self._collect_wants(scope)
        for scope in self._scopes:
            self._convert_constants(scope)
        for scope in self._scopes:
            self._write(scope)
        for scope in self._scopes:
            for node in scope.nodes:
                if id(node) not in self._written:
                    self._connect(node)

    def _collect_wants(self, scope: gs.Graph) -> None:
        for tensor in (*scope.inputs, *scope.outputs):
            if has_dtype(tensor, np.float32):
                self._wants_half.add(id(tensor))
        for node in scope.nodes:
            self._keep_alive.extend((*node.inputs, *node.outputs))
            for index, tensor in enumerate(node.inputs):
                if has_dtype(tensor, np.float32):
                    precision = self._rules.input(node, index)
                    if precision is Precision.HALF:
                        self._wants_half.add(id(tensor))
                    elif precision is Precision.FLOAT:
                        self._wants_float.add(id(tensor))

    def _convert_constants(self, scope: gs.Graph) -> None:
        outputs = [tensor for tensor in scope.outputs if isinstance(tensor, gs.Constant)]
        for tensor in [*(t for node in scope.nodes for t in node.inputs), *outputs]:
            if not isinstance(tensor, gs.Constant) or not has_dtype(tensor, np.float32):
                continue
            if id(tensor) not in self._wants_half:
                continue  # read as float32, or by a Cast: exact as it is
            if id(tensor) in self._wants_float:
                name = unique_name(f"{tensor.name}_float", self._names)
                self._float_form[id(tensor)] = gs.Constant(name, tensor._values, tensor.data_location)
            tensor.values = self._values.constant(tensor)
            tensor.data_location = None
            self._result.count("constants to float16")

    def _write(self, scope: gs.Graph) -> None:
        nodes: list[gs.Node] = []
        for tensor in scope.inputs:
            if has_dtype(tensor, np.float32):
                tensor.dtype = _HALF
                self._result.count("tensors to float16")
                if id(tensor) in self._wants_float:
                    nodes.append(self._cast_up(tensor))
        for node in scope.nodes:
            nodes.append(node)
            for index, tensor in enumerate(list(node.outputs)):
                if isinstance(tensor, gs.Variable) and has_dtype(tensor, np.float32):
                    nodes.extend(self._write_output(node, index))
        scope.nodes[:] = nodes
        for tensor in scope.outputs:  # one that nothing in this scope makes; the maker's scope casts it
            if has_dtype(tensor, np.float32) and not tensor.inputs:
                tensor.dtype = _HALF

    def _write_output(self, node: gs.Node, index: int) -> list[gs.Node]:
        """Set the type of one output, and give the casts to its other form."""
        tensor = node.outputs[index]
        needs_float = id(tensor) in self._wants_float
        if node.op in ("Constant", "ConstantOfShape"):
            return self._write_constant(node, needs_float)
        precision = self._rules.output(node, index)
        if precision is Precision.EITHER:
            precision = Precision.FLOAT if needs_float else Precision.HALF
        if precision is Precision.HALF:
            self._set_attributes(node)
            tensor.dtype = _HALF
            self._result.count("tensors to float16")
            return [self._cast_up(tensor)] if needs_float else []
        if id(tensor) not in self._wants_half:
            return []
        form = self._new_float(tensor)
        node.outputs[index] = form
        tensor.dtype = _HALF
        self._result.count("tensors to float16")
        return [self._cast(form, tensor, _TO_HALF)]

    def _write_constant(self, node: gs.Node, needs_float: bool) -> list[gs.Node]:
        """As :meth:`_write_output` for a node that holds a value: a second one for float32, as a Cast would round."""
        tensor = node.outputs[0]
        if id(tensor) not in self._wants_half:
            return []
        twin: list[gs.Node] = []
        if needs_float:
            form = self._new_float(tensor)
            twin = [gs.Node(node.op, form.name, dict(node.attrs), list(node.inputs), [form])]
            self._written.update(id(new) for new in twin)
        self._set_value(node)
        tensor.dtype = _HALF
        self._result.count("tensors to float16")
        return twin

    def _cast_up(self, tensor: gs.Tensor) -> gs.Node:
        return self._cast(tensor, self._new_float(tensor), _TO_FLOAT)

    def _new_float(self, tensor: gs.Tensor) -> gs.Variable:
        form = gs.Variable(unique_name(f"{tensor.name}_float", self._names), FLOAT, tensor.shape)
        self._float_form[id(tensor)] = form
        return form

    def _cast(self, source: gs.Tensor, target: gs.Tensor, to: int) -> gs.Node:
        node = gs.Node("Cast", f"{target.name}_cast", {"to": to}, [source], [target])
        self._written.add(id(node))
        self._result.count("casts inserted")
        return node

    def _set_attributes(self, node: gs.Node) -> None:
        """Let a node that names its output type make float16."""
        if node.op == "Cast":
            node.attrs["to"] = _TO_HALF
        elif node.op == "AttentionMask":
            node.attrs["dataType"], node.attrs["to"] = "FLOAT16", _TO_HALF
        elif node.op in DTYPE_ATTRIBUTES:
            name, default = DTYPE_ATTRIBUTES[node.op]
            if name in node.attrs or default is not None:
                node.attrs[name] = _TO_HALF

    def _set_value(self, node: gs.Node) -> None:
        label = node.outputs[0].name
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant):
            values = self._values.convert(label, np.array(value.values))
        else:
            plain = node.attrs.pop("value_float", node.attrs.pop("value_floats", None))
            values = self._values.convert(label, np.array([0.0] if plain is None else plain, np.float32))
        node.attrs["value"] = gs.Constant(value.name if value is not None else label, values)

    def _connect(self, node: gs.Node) -> None:
        """Give each input of a node the form that it wants."""
        for index, tensor in enumerate(node.inputs):
            form = self._float_form.get(id(tensor))
            if form is None:
                continue
            precision = self._rules.input(node, index)
            cast_up = any(maker.op == "Cast" and id(maker) in self._written for maker in form.inputs)
            if precision is Precision.FLOAT or (precision is Precision.EITHER and not cast_up):
                node.inputs[index] = form
