"""A small builder over onnx.helper: add nodes by operator, get tensor names back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

#: The first opset in which each reduction takes its axes as an input.
_AXES_INPUT_SINCE = {"ReduceSum": 13, "ReduceMean": 18, "ReduceL2": 18}


class GraphBuilder:
    """Collects nodes, weights, inputs and outputs, and makes a checked ModelProto of them."""

    def __init__(self, name: str, opset: int) -> None:
        self.opset = opset
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str], element: int = TensorProto.INT64) -> str:
        """Declare an input of these elements; a string in ``shape`` names an open dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, tensor: str, name: str, shape: Sequence[int | str]) -> None:
        """Declare ``tensor`` as the float output ``name``."""
        self._nodes.append(helper.make_node("Identity", [tensor], [name], name=f"output/{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def weight(self, name: str, value: NDArray[Any]) -> str:
        """Add a named initializer."""
        self._weights[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def constant(self, value: ArrayLike, dtype: Any = np.float32) -> str:
        """Add an unnamed initializer."""
        return self.weight(f"constant_{len(self._weights)}", np.asarray(value, dtype))

    def ints(self, *values: int) -> str:
        """Add a 1-D int64 constant, for axes and shapes."""
        return self.constant(values, np.int64)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.nodes(op, *inputs, outputs=1, **attributes)[0]

    def nodes(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with ``outputs`` outputs and return their names."""
        label = f"{op}_{len(self._nodes)}"
        names = [f"{label}_out{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=label, **attributes))
        return names

    def reduce(self, op: str, x: str, axis: int, *, keepdims: bool = True) -> str:
        """Reduce over one axis, in the form that the opset asks for."""
        if self.opset >= _AXES_INPUT_SINCE[op]:
            return self.node(op, x, self.ints(axis), keepdims=int(keepdims))
        return self.node(op, x, axes=[axis], keepdims=int(keepdims))

    def build(self) -> onnx.ModelProto:
        """Return the model, checked.

        Raises:
            onnx.checker.ValidationError: the nodes do not make a valid graph.
        """
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, initializer=list(self._weights.values())
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model)
        return model
