"""How many rows the tables of a model have, stored or made of what is stored (quantised, cast, joined, cut)."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, TypeProto, helper, shape_inference

from passes.operators import CONTRIB
from poprt.flat_graph import FlatGraph, Shape, Step

#: Operators of any domain whose result has the shape of the first input.
_SAME_SHAPE = frozenset({"Identity", "Cast", "DequantizeLinear", "QuantizeLinear"})
_DEEPEST = 32  # steps from a stored table to its reader
_FAILURES = (shape_inference.InferenceError, onnx.defs.SchemaError, ValueError, TypeError, RuntimeError)


class TableShapes:
    """The shapes of constant tensors, and what a model declares of the others."""

    def __init__(self, flat: FlatGraph) -> None:
        self._flat = flat
        self._producers = {name: step for step in flat.steps for name in step.outputs if name}
        self._shapes: dict[str, Shape | None] = {}

    def rows(self, name: str, axis: int) -> int:
        """The extent of a tensor along an axis; 0 where it is not known."""
        shape = self.constant(name) or self._flat.shapes.get(name, ())
        extent = shape[axis] if -len(shape) <= axis < len(shape) else 0
        return extent if isinstance(extent, int) else 0

    def constant(self, name: str, depth: int = 0) -> Shape | None:
        """The shape of a tensor that is stored or comes of stored ones alone; None of any other."""
        if name not in self._shapes:
            self._shapes[name] = self._constant(name, depth) if depth < _DEEPEST else None
        return self._shapes[name]

    def table(self, name: str) -> str:
        """The name of the stored tensor that a table is made of."""
        for _ in range(_DEEPEST):
            if name in self._flat.constants or name not in self._producers:
                break
            name = self._producers[name].read(0)
        return name.partition("\0")[0]

    def _constant(self, name: str, depth: int) -> Shape | None:
        if name in self._flat.constants:
            return tuple(self._flat.constants[name].dims)
        step = self._producers.get(name)
        if step is None or not step.inputs:
            return None
        if step.node.op_type in _SAME_SHAPE and step.op[0] in ("", CONTRIB):
            return self.constant(step.inputs[0], depth + 1)
        shapes = {operand: self.constant(operand, depth + 1) for operand in step.inputs if operand}
        known_shapes = {operand: shape for operand, shape in shapes.items() if shape is not None}
        return self._inferred(step, known_shapes, name) if len(known_shapes) == len(shapes) else None

    def _inferred(self, step: Step, shapes: Mapping[str, Shape], name: str) -> Shape | None:
        """What onnx's shape inference says of one node."""
        types: dict[str, TypeProto] = {}
        data: dict[str, TensorProto] = {}
        for inner, operand in zip(step.node.input, step.inputs, strict=True):
            if not operand:
                continue
            stored, values = self._flat.constants.get(operand), self._flat.values(operand)
            types[inner] = helper.make_tensor_type_proto(stored.data_type if stored else 1, shapes[operand])
            if values is not None and stored is not None:
                data[inner] = stored
        try:
            schema = onnx.defs.get_schema(step.node.op_type, self._flat.opsets.get(step.op[0], 1), step.op[0])
            inferred = shape_inference.infer_node_outputs(schema, step.node, types, data)
        except _FAILURES:
            return None
        declared = inferred.get(step.node.output[step.outputs.index(name)])
        if declared is None or not declared.tensor_type.HasField("shape"):
            return None
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in declared.tensor_type.shape.dim)
        return dims if None not in dims else None
