"""A model as one list of steps: subgraphs and local functions are laid open, each tensor has a name of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from passes.extents import declared_extent

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int | str | None, ...]
_FunctionKey: TypeAlias = tuple[str, str, str]

#: More steps than this are not looked at: functions that call functions may expand beyond measure.
_MOST_STEPS = 200_000
#: Constants of more elements are tables: their shape matters, not their values.
_FEW_VALUES = 1 << 14
#: Hands a value on where a name stops: into a function, out of a branch.
_HANDED_ON = onnx.helper.make_node("Identity", [], [])


@dataclass(frozen=True)
class Step:
    """A node, and the names that the tensors which it reads and writes have in the whole model.

    Attributes:
        inputs, outputs: one name each, "" where one is left out.
    """

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def op(self) -> tuple[str, str]:
        """Domain and operator; the standard domain is ""."""
        return ("" if self.node.domain == "ai.onnx" else self.node.domain, self.node.op_type)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute; ``default`` where it is left out, or is the caller's of a function to give."""
        for attribute in self.node.attribute:
            if attribute.name == name and not attribute.ref_attr_name:
                return onnx.helper.get_attribute_value(attribute)
        return default

    def read(self, index: int) -> str:
        """The name of an input, "" where it is left out."""
        return self.inputs[index] if 0 <= index < len(self.inputs) else ""

    def __str__(self) -> str:
        return f"{self.node.op_type} {self.node.name or next(iter(self.node.output), '')!r}"


@dataclass
class FlatGraph:
    """The steps of a model, in an order in which they could run, and what is known of its tensors.

    Attributes:
        inputs: names of the inputs that a caller feeds.
        constants: name -> stored tensor, an initializer or a Constant's value.
        shapes: name -> extents that the model declares: a number, a name, or None where one is open.
        opsets: domain -> version.
    """

    inputs: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)

    def values(self, name: str) -> Array | None:
        """The values of a small constant; None of anything else."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        if math.prod(tensor.dims) > _FEW_VALUES:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    @cached_property
    def readers(self) -> dict[str, list[tuple[Step, int]]]:
        """Name -> the steps that read it, each with the index of the input."""
        readers: dict[str, list[tuple[Step, int]]] = {}
        for step in self.steps:
            for index, name in enumerate(step.inputs):
                if name:
                    readers.setdefault(name, []).append((step, index))
        return readers


def flatten(model: onnx.ModelProto) -> FlatGraph:
    """Lay ``model`` open. Of weights nothing is copied."""
    return _Flattener(model).flat


@dataclass
class _Scope:
    """The names of one graph, and those around it that its nodes may read."""

    number: int
    around: _Scope | None = None
    names: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> str:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.around
        return self.write(name)

    def write(self, name: str) -> str:
        if not name:
            return ""
        return self.names.setdefault(name, f"{name}\0{self.number}" if self.number else name)


class _Flattener:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.flat = FlatGraph()
        self._functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self._numbers = count()
        self._calls: list[_FunctionKey] = []
        weights = {tensor.name for tensor in model.graph.initializer}
        self.flat.opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
        self.flat.inputs = [value.name for value in model.graph.input if value.name not in weights]
        self._graph(model.graph, self._scope())

    def _scope(self, around: _Scope | None = None) -> _Scope:
        return _Scope(next(self._numbers), around)

    def _graph(self, graph: onnx.GraphProto, scope: _Scope) -> None:
        for tensor in graph.initializer:
            self.flat.constants[scope.write(tensor.name)] = tensor
        for value in [*graph.input, *graph.value_info, *graph.output]:
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                self.flat.shapes[scope.write(value.name)] = tuple(declared_extent(dim) for dim in dims)
        self._nodes(graph.node, scope)

    def _nodes(self, nodes: Iterable[onnx.NodeProto], scope: _Scope) -> None:
        for node in nodes:
            if len(self.flat.steps) >= _MOST_STEPS:
                return
            step = Step(node, tuple(map(scope.read, node.input)), tuple(map(scope.write, node.output)))
            key = (node.domain, node.op_type, node.overload)
            if key in self._functions and key not in self._calls:
                self._call(key, step)
                continue
            self.flat.steps.append(step)
            if step.op == ("", "Constant"):
                self._constant(step)
            for attribute in node.attribute:
                for nested in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                    self._nested(step, nested, self._scope(scope))

    def _constant(self, step: Step) -> None:
        for attribute in step.node.attribute:
            if attribute.ref_attr_name:  # the caller of the function says it
                continue
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, onnx.TensorProto):
                self.flat.constants[step.outputs[0]] = value
            elif attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
                dtype = np.int64 if "int" in attribute.name else np.float32
                self.flat.constants[step.outputs[0]] = numpy_helper.from_array(np.array(value, dtype))

    def _call(self, key: _FunctionKey, step: Step) -> None:
        """Put the body of a local function in place of the call."""
        function, scope = self._functions[key], self._scope()
        scope.names.update(zip(function.input, step.inputs, strict=False))
        self._calls.append(key)
        self._nodes(function.node, scope)
        self._calls.pop()
        self._hand_on([scope.read(name) for name in function.output], step.outputs)

    def _nested(self, step: Step, graph: onnx.GraphProto, scope: _Scope) -> None:
        """The graph of a branch or a loop, joined with what its node reads and writes."""
        starts = [scope.write(value.name) for value in graph.input]
        ends = [scope.read(value.name) for value in graph.output]
        loop = step.op == ("", "Loop")
        if loop:  # trip count, condition, then what goes round; the body starts with its own number and condition
            starts, ends = starts[2:], ends[1:]
        self._hand_on(step.inputs[2:] if loop else step.inputs, starts)
        self._graph(graph, scope)
        self._hand_on(ends, step.outputs)
        if loop:
            self._hand_on(ends, starts)

    def _hand_on(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        pairs = zip(sources, targets, strict=False)
        self.flat.steps += [Step(_HANDED_ON, (source,), (target,)) for source, target in pairs if source and target]
