"""Nodes in the place of a fused operator, named after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.shapes.symbolic import SymbolicShapes


class NodeBuilder:
    """Adds nodes whose names begin with the name of the operator they replace."""

    def __init__(self, graph: gs.Graph, replaced: gs.Node) -> None:
        self._graph = graph
        self._prefix = replaced.name or replaced.outputs[0].name

    def add(
        self, op: str, what: str, inputs: Sequence[gs.Tensor], dtype: Any = None, into: gs.Tensor | None = None,
        domain: str | None = None, **attrs: Any,
    ) -> gs.Tensor:  # fmt: skip
        """Add a node; its result is ``into`` or a new tensor."""
        name = f"{self._prefix}_{what}"
        return add_node(self._graph.nodes, op, name, inputs, dtype, into=into, domain=domain, **attrs)

    def constant(self, what: str, values: Any, dtype: Any = np.int64) -> gs.Constant:
        """An initializer."""
        return gs.Constant(f"{self._prefix}_{what}", np.asarray(values, dtype))


def numpy_dtype(tensor: gs.Tensor, shapes: SymbolicShapes) -> Any:
    """The declared type of a tensor, else the inferred one.

    Raises:
        KeyError: neither is known.
    """
    if tensor.dtype is not None:
        return tensor.dtype
    return onnx.helper.tensor_dtype_to_np_dtype(shapes.dtypes[tensor.name])
