"""The axis of each tensor that counts samples, in a graph whose shapes are numbers.

The axis follows from the data flow: from the inputs' on, each operator says where it leads (:mod:`.table`).
A graph with a rule for all that reads samples answers each sample by itself, whatever the others are and however many.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import subgraphs
from passes.node_values import constant
from passes.operators import Family, lookup, members
from passes.refusal import Refusal, RefusedError, refused
from passes.shapes.symbolic import infer_symbolic_shapes

_RANDOM = members(Family.RANDOM)

logger = logging.getLogger("poprt")


@dataclass(frozen=True)
class BatchAxis:
    """An axis that holds sample after sample.

    Attributes:
        axis: which one.
        inner: places of one sample there: [B * 12, S, S], scores of 12 heads, has 12 in axis 0.
    """

    axis: int
    inner: int = 1


#: The batch axis of all outputs, or of each; None for one that has none.
Answer = BatchAxis | list[BatchAxis | None]
#: Raises RefusedError where a sample's result may be made of others too.
Rule = Callable[[gs.Node, "BatchAxes"], Answer]


class BatchAxes:
    """Follows the batch through a graph, whose nodes must be in topological order. Does not change it.

    Args:
        graph: with numbers for extents.
        inputs: the axis of each input.
        size: the batch size that the inputs declare.
        weights: values of constants that the graph does not hold, by name.

    Attributes:
        targets: output name of a Reshape or Expand -> the shape that leaves the batch open.
        cuts: (id of a node, index of its input) -> the axis along which an operand that is the same for all samples
            is cut to one, to be broadcast.
        grown: the same for operands that have to have as many samples as the batch.
    """

    def __init__(
        self, graph: gs.Graph, inputs: Mapping[str, int], size: int, weights: Mapping[str, Any] | None = None
    ) -> None:
        self.graph, self.size = graph, size
        self.opset: int = graph.opset
        self.targets: dict[str, list[int]] = {}
        self.cuts: dict[tuple[int, int], int] = {}
        self.grown: dict[tuple[int, int], int] = {}
        self._axes = {name: BatchAxis(axis) for name, axis in inputs.items()}
        self._weights = weights or {}
        self._inferred: dict[str, tuple[int, ...]] | None = None

    def walk(self, find_rule: Callable[[gs.Node], Rule]) -> Refusal | None:
        """Follow the batch from the inputs to the outputs; why that is not possible, if it is not."""
        for node in self.graph.nodes:
            if node.op in _RANDOM and not node.domain:
                return Refusal(None, "draws numbers for the whole run").at(node)
            captured = {tensor.name for graph in subgraphs(node) for tensor in _read_inside(graph)}
            if not any(tensor.name in self._axes for tensor in node.inputs) and not captured & set(self._axes):
                continue
            try:
                if captured:
                    raise refused("holds a graph of its own")
                self._note(node, find_rule(node)(node, self))
            except RefusedError as error:
                return error.refusal.at(node)
            except (IndexError, KeyError, TypeError, ValueError) as error:
                logger.debug("the batch is not followed past %s: %r", node.name, error)
                return Refusal(None, "is written in a way that no rule reads").at(node)
        return self._refuse_outputs()

    def _note(self, node: gs.Node, answer: Answer) -> None:
        answers = answer if isinstance(answer, list) else [answer] * len(node.outputs)
        for tensor, place in zip(node.outputs, answers, strict=False):
            if place is None or not tensor.name:
                continue
            extents = self.shape(tensor)
            if extents[place.axis] != self.size * place.inner:
                raise refused(f"gives {tensor.name!r} {list(extents)}, which has no place for the batch")
            self._axes[tensor.name] = place

    def _refuse_outputs(self) -> Refusal | None:
        for tensor in self.graph.outputs:
            place = self._axes.get(tensor.name)
            if place is None:
                return Refusal(None, f"output {tensor.name!r} is the same whatever the batch is")
            if place.inner != 1:
                return Refusal(None, f"output {tensor.name!r} holds {place.inner} places a sample in its batch axis")
        return None

    # What rules ask.

    def of(self, tensor: gs.Tensor) -> BatchAxis | None:
        """The batch axis of a tensor; None where it has none."""
        return self._axes.get(tensor.name)

    def require(self, tensor: gs.Tensor) -> BatchAxis:
        """The batch axis of a tensor that must have one."""
        place = self.of(tensor)
        if place is None:
            raise refused(f"reads {tensor.name!r}, which does not depend on the batch")
        return place

    def shape(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """The extents of a tensor, all of them numbers."""
        extents = tensor.shape
        if extents is None or not all(isinstance(n, (int, np.integer)) for n in extents):
            extents = self._infer().get(tensor.name)
        if extents is None:
            raise refused(f"the shape of {tensor.name!r} is not known")
        return tuple(int(n) for n in extents)

    def _infer(self) -> dict[str, tuple[int, ...]]:
        if self._inferred is None:
            shapes = infer_symbolic_shapes(self.graph)
            whole = {name: shape for name, shape in shapes.items() if name not in shapes.guessed}
            self._inferred = {
                name: tuple(map(int, shape))
                for name, shape in whole.items()
                if all(getattr(n, "is_Integer", isinstance(n, int)) for n in shape)
            }
        return self._inferred

    def values(self, tensor: gs.Tensor) -> np.ndarray | None:
        """The numbers of a constant; None for what is computed."""
        if tensor.name in self._weights:
            return np.asarray(self._weights[tensor.name])
        return constant(tensor)

    def settle(self, node: gs.Node, index: int, axis: int, *, grow: bool = False) -> None:
        """Bring an operand that does not depend on the batch to the batch's extent along ``axis``.

        One that is the same for all samples is cut to one, to be broadcast; with ``grow`` it is repeated.

        Raises:
            RefusedError: it differs from sample to sample.
        """
        tensor = node.inputs[index]
        if self.shape(tensor)[axis] > 1 and not self._same_along(tensor, axis):
            raise refused(f"reads {tensor.name!r}, which differs from sample to sample")
        (self.grown if grow else self.cuts)[id(node), index] = axis

    def _same_along(self, tensor: gs.Tensor, axis: int) -> bool:
        """Whether a tensor that does not depend on the batch is the same everywhere along an axis."""
        values = self.values(tensor)
        if values is not None:
            first = np.take(values, [0], axis=axis)
            same = (values == first) | ((values != values) & (first != first))
            if values.dtype.kind == "f":
                same &= np.signbit(values) == np.signbit(first)  # 1 / -0 is not 1 / 0
            return bool(same.all())
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None:
            return False
        if node.op == "ConstantOfShape":
            return True
        rank, own = len(self.shape(tensor)), len(self.shape(node.inputs[0])) if node.inputs else 0
        if node.op == "Expand":
            before = axis - (rank - own)
            return before < 0 or self.shape(node.inputs[0])[before] == 1 or self._same_along(node.inputs[0], before)
        if len(node.inputs) == 1 and lookup(node.op, node.domain).elementwise:
            return self._same_along(node.inputs[0], axis)
        return False

    def reshaped(self, tensor: gs.Tensor, target: gs.Tensor) -> BatchAxis:
        """Where the batch is after the values of ``tensor``, in their order, were given the shape of ``target``.

        [B, S, H] -> [B * S, H] keeps it in axis 0, with S places a sample. What lies before the batch stays so.
        """
        place, before, after = self.require(tensor), self.shape(tensor), self.shape(target)
        ahead = math.prod(before[: place.axis])
        for axis, extent in enumerate(after):
            if math.prod(after[:axis]) == ahead and extent and extent % self.size == 0:
                return BatchAxis(axis, extent // self.size)
        raise refused(f"divides the samples of {tensor.name!r} {list(before)} to {list(after)}")


def _read_inside(graph: gs.Graph) -> list[gs.Tensor]:
    nested = [inner for node in graph.nodes for inner in subgraphs(node)]
    own = [tensor for node in graph.nodes for tensor in node.inputs]
    return [*own, *graph.outputs, *(tensor for inner in nested for tensor in _read_inside(inner))]
