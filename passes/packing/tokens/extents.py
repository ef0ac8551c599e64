"""Shape arithmetic anew: extents of the unpacked side are read from one small tensor, not from whatever was at hand.

Exporters read the batch size and the sequence length from hidden states, masks and ids alike. A hidden state that
runs packed would have to be unpacked only to be measured. What a shape tensor holds is known symbolically, so it is
built again from the two extents of one unpacked input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import sympy

from passes.building import add_node
from passes.packing.tokens.axes import BATCH, SEQ


class Extents:
    """Builds integer tensors that hold extents.

    Args:
        graph: the graph that gets the nodes.
        measured: gives the tensor [batch, seq, ...] whose first two extents are meant.
        prefix: names of the new tensors begin with it.
    """

    def __init__(self, graph: gs.Graph, measured: Callable[[], gs.Tensor], prefix: str) -> None:
        self._graph = graph
        self._measured = measured
        self._prefix = prefix
        self._made: dict[str, gs.Tensor] = {}

    def vector(self, extents: Sequence[Any]) -> gs.Tensor:
        """int64 [len(extents)] holding ``extents``.

        Raises:
            LookupError: one is no sum or product of numbers, batch and seq; whoever asked was wrong.
        """
        tensor = self.known_vector(extents)
        if tensor is None:
            raise LookupError(f"the extents {list(map(str, extents))} do not follow from batch and sequence")
        return tensor

    def known_vector(self, extents: Sequence[Any]) -> gs.Tensor | None:
        """As :meth:`vector`; None where an extent is no sum or product of numbers, batch and seq."""
        pieces = [self._piece(sympy.sympify(extent)) for extent in extents]
        if any(piece is None for piece in pieces):
            return None
        if all(isinstance(piece, gs.Constant) for piece in pieces):
            return self.constant([int(sympy.sympify(extent)) for extent in extents])
        if len(pieces) == 1:
            return pieces[0]
        return self._node(f"[{', '.join(map(str, extents))}]", "Concat", pieces, axis=0)

    def known_scalar(self, extent: Any) -> gs.Tensor | None:
        """int64 scalar holding ``extent``; None as for :meth:`known_vector`."""
        expression = sympy.sympify(extent)
        if expression.is_Integer:
            return self.constant(int(expression))
        piece = self._piece(expression)
        return None if piece is None else self._node(f"scalar {expression}", "Squeeze", [piece, self.constant([0])])

    def constant(self, values: Any) -> gs.Constant:
        """An int64 initializer, one for equal values."""
        key = f"constant {values}"
        if key not in self._made:
            name = f"{self._prefix}_constant_{len(self._made)}"
            self._made[key] = gs.Constant(name, np.asarray(values, np.int64))
        return self._made[key]

    def _piece(self, expression: sympy.Expr) -> gs.Tensor | None:
        if expression.is_Integer:
            return self.constant([int(expression)])
        if expression in (BATCH, SEQ):
            axis = 0 if expression == BATCH else 1
            return self._node(str(expression), "Shape", [self._measured()], start=axis, end=axis + 1)
        if not (expression.is_Add or expression.is_Mul):
            return None
        op = "Add" if expression.is_Add else "Mul"
        arguments = [self._piece(argument) for argument in expression.args]
        if any(argument is None for argument in arguments):
            return None
        result = arguments[0]
        for number, argument in enumerate(arguments[1:]):
            result = self._node(f"{expression}:{number}", op, [result, argument])
        return result

    def _node(self, key: str, op: str, inputs: Sequence[gs.Tensor | None], **attrs: Any) -> gs.Tensor:
        if key not in self._made:
            name = f"{self._prefix}_{op.lower()}_{len(self._made)}"
            self._made[key] = add_node(self._graph.nodes, op, name, inputs, np.int64, **attrs)
        return self._made[key]
