"""Nodes and constants for the end of a graph, under names that are free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from passes.node_protos import opset_of

_PREFIX = "poprt_text"


class Nodes:
    """Adds nodes to the end of a graph.

    Args:
        model: it is changed in place; its opset must be 13 or newer.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._opset = opset_of(model)
        self._taken = {name for node in model.graph.node for name in node.output}
        self._taken |= {tensor.name for tensor in model.graph.initializer}
        self._taken |= {value.name for value in model.graph.input}

    def add(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output; the output's name."""
        name = self.name(op_type)
        self._model.graph.node.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def reduce(self, op_type: str, data: str, *, keep: bool = False) -> str:
        """Reduce along axis 1. Axes of maxima became an input in opset 18, those of sums in 13."""
        if op_type == "ReduceSum" or self._opset >= 18:
            return self.add(op_type, [data, self.integers([1])], keepdims=int(keep))
        return self.add(op_type, [data], axes=[1], keepdims=int(keep))

    def floats(self, values: npt.ArrayLike) -> str:
        """A float32 constant."""
        return self.constant(np.asarray(values, np.float32))

    def integers(self, values: npt.ArrayLike) -> str:
        """An int64 constant."""
        return self.constant(np.asarray(values, np.int64))

    def constant(self, array: npt.NDArray[Any]) -> str:
        """An initializer."""
        name = self.name("constant")
        self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def name(self, stem: str) -> str:
        """A name that nothing has."""
        number = 0
        while (name := f"{_PREFIX}/{stem}_{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name
