"""Nodes in the place of a fused operator, named after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.precision.names import unique_name


class NodeBuilder:
    """Adds nodes whose names begin with the name of the operator they replace.

    Args:
        nodes: ``graph.nodes``, or a list that goes there later.
        replaced: the operator.
        taken: names that tensors have; where it is given, new tensors get others, which are added.
    """

    def __init__(self, nodes: list[gs.Node], replaced: gs.Node, taken: set[str] | None = None) -> None:
        self._nodes, self._taken = nodes, taken
        self._prefix = replaced.name or replaced.outputs[0].name

    def _name(self, what: str) -> str:
        name = f"{self._prefix}_{what}"
        return name if self._taken is None else unique_name(name, self._taken)

    def add(
        self, op: str, what: str, inputs: Sequence[gs.Tensor], dtype: Any = None, into: gs.Tensor | None = None,
        domain: str | None = None, **attrs: Any,
    ) -> gs.Tensor:  # fmt: skip
        """Add a node; its result is ``into`` or a new tensor."""
        return add_node(self._nodes, op, self._name(what), inputs, dtype, into=into, domain=domain, **attrs)

    def add_of_several(
        self, op: str, what: str, inputs: Sequence[gs.Tensor], into: Sequence[gs.Tensor], **attrs: Any
    ) -> None:
        """Add a node with several results, which exist already."""
        self._nodes.append(gs.Node(op, self._name(what), attrs, list(inputs), list(into)))

    def constant(self, what: str, values: Any, dtype: Any = np.int64) -> gs.Constant:
        """An initializer."""
        return gs.Constant(self._name(what), np.asarray(values, dtype))
