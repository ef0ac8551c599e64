"""What a tensor holds in a full pack, where that is one value throughout.

A pack is *full* when its samples are of one length and the mask input is 1 at every token. Then an Unpack puts no
padding, and what a graph computes of its mask alone is one number everywhere: `(1 - mask) * -10000` is 0. A mask that
means more (causal, local, relative positions) has several values, and is not known here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from passes.cleanup.rewiring import is_op
from passes.node_values import constant
from passes.operators import Family, members
from passes.placeholders import is_placeholder
from poprt.compiler.ragged import INDEX

Value = np.ndarray[Any, Any]

#: Give values of their first input and no others.
_MOVES = members(Family.ORDER, Family.AXES, Family.REPEAT, Family.CUT) | {"Identity"}
#: Compute each place of their result from the same place of their inputs.
_COMPUTES = members(
    Family.ARITHMETIC, Family.POWER, Family.SIGN, Family.CLAMP, Family.COMPARISON, Family.LOGIC, Family.CONVERSION
)
_MOST_ELEMENTS = 1 << 16  # a larger constant is no mask's


class FullPackValues:
    """Finds the one value of tensors, each by what makes it.

    Args:
        graph: as LowerPacking leaves it.
        mask: the graph input that is 1 throughout in a full pack, where there is one.
    """

    def __init__(self, graph: gs.Graph, mask: gs.Tensor | None) -> None:
        self._mask = mask
        self._opsets = {"": graph.opset}
        self._known: dict[int, Value | None] = {}

    def value(self, tensor: gs.Tensor) -> Value | None:
        """The value, as an array of one element; None where there are several, or none is known."""
        if id(tensor) not in self._known:
            self._known[id(tensor)] = self._find(tensor)
        return self._known[id(tensor)]

    def is_known(self, tensor: gs.Tensor, number: float) -> bool:
        """Whether ``tensor`` holds ``number`` throughout."""
        value = self.value(tensor)
        return value is not None and bool(value == number)

    def _find(self, tensor: gs.Tensor) -> Value | None:
        if self._mask is not None and tensor is self._mask:
            return np.ones(1, tensor.dtype)
        if isinstance(tensor, gs.Constant) and (is_placeholder(tensor) or math.prod(tensor.shape) > _MOST_ELEMENTS):
            return None
        values = constant(tensor)
        if values is not None:
            return values.reshape(-1)[:1] if values.size and bool((values == values.flat[0]).all()) else None
        return self._made(tensor.inputs[0]) if len(tensor.inputs) == 1 else None

    def _made(self, node: gs.Node) -> Value | None:
        if is_op(node, "Gather"):
            return self.value(_unpadded(node))
        if is_op(node, *_MOVES):
            return self.value(node.inputs[0])
        if is_op(node, "Where"):
            return self._chosen(node)
        if is_op(node, "Or") and any(self.is_known(tensor, True) for tensor in node.inputs):
            return np.ones(1, np.bool_)
        if is_op(node, "Equal") and node.inputs[0] is node.inputs[1] and _is_whole(node.inputs[0]):
            return np.ones(1, np.bool_)
        return self._computed(node) if is_op(node, *_COMPUTES) else None

    def _chosen(self, node: gs.Node) -> Value | None:
        chosen = self.value(node.inputs[0])
        return None if chosen is None else self.value(node.inputs[1 if chosen else 2])

    def _computed(self, node: gs.Node) -> Value | None:
        operands = {tensor.name: self.value(tensor) for tensor in node.inputs if not tensor.is_empty()}
        if any(value is None for value in operands.values()):
            return None
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(OnnxExporter.export_node(node), opsets=self._opsets)
            (result,) = evaluator.run(None, operands)
        return np.asarray(result).reshape(-1)


def _is_whole(tensor: gs.Tensor) -> bool:
    """Whether ``tensor`` holds whole numbers, which equal themselves."""
    return tensor.dtype is not None and np.dtype(tensor.dtype).kind in "iub"


def _unpadded(gather: gs.Node) -> gs.Tensor:
    """What a Gather picks from; for an Unpack without the row of zeros, which a full pack does not read."""
    source = gather.inputs[0]
    if gather.inputs[1].name != INDEX or not source.inputs or source.inputs[0].op != "Concat":
        return source
    return source.inputs[0].inputs[1]
