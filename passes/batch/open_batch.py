"""Let a graph of fixed batch size take any number of samples, where data flow proves that it can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.batch import movement, places, products  # noqa: F401  (their rules enter the table)
from passes.batch.batch_axes import BatchAxes
from passes.batch.table import find_rule
from passes.building import add_node
from passes.refusal import Refusal

#: What the open extent is called.
BATCH = "batch"


class OpenBatch(GraphPass):
    """Opens the batch axis: inputs of [16, 64] become [batch, 64], and so does all that is made of them.

    Args:
        axis: which axis of the inputs the batch is. An input that has another extent there, such as a state of
            [2, 16, H], has its batch in the one axis of that extent.
        weights: values of constants that the graph does not hold, by name.

    Attributes:
        axes: the batch axis of each input and output, after :meth:`apply`; empty where the graph holds its batch size.
        refusal: why it does.
    """

    name = "open_batch"

    def __init__(self, axis: int = 0, weights: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._axis, self._weights = axis, weights
        self.axes: dict[str, int] = {}
        self.refusal: Refusal | None = None

    def apply(self, graph: gs.Graph) -> PassResult:
        """Open the axis, in place, or say why not."""
        result = PassResult()
        size, inputs = _batch_inputs(graph, self._axis)
        if size is None or inputs is None:
            self.refusal = Refusal(None, "its inputs do not declare one batch size")
        else:
            batch = BatchAxes(graph, inputs, size, self._weights)
            self.refusal = batch.walk(find_rule)
        if self.refusal is not None:
            result.refusals.append(self.refusal)
            return result
        _Opening(graph, batch).apply()
        self.axes = {tensor.name: batch.require(tensor).axis for tensor in (*graph.inputs, *graph.outputs)}
        result.count("axes opened", len(self.axes))
        return result


def _batch_inputs(graph: gs.Graph, axis: int) -> tuple[int | None, dict[str, int] | None]:
    """The batch size, and the axis in which each input has it; None where an input has none, or might have several."""
    shapes = {tensor.name: list(tensor.shape or []) for tensor in graph.inputs}
    if not shapes or not all(isinstance(n, (int, np.integer)) and n > 0 for shape in shapes.values() for n in shape):
        return None, None
    size = next((shape[axis] for shape in shapes.values() if len(shape) > axis), None)
    if size is None:
        return None, None
    axes = {}
    for name, shape in shapes.items():
        same = [place for place, extent in enumerate(shape) if extent == size]
        if len(shape) > axis and shape[axis] == size:
            axes[name] = axis
        elif len(same) == 1:
            axes[name] = same[0]
        else:
            return size, None
    return int(size), axes


class _Opening:
    """Carries out what :class:`BatchAxes` says."""

    def __init__(self, graph: gs.Graph, batch: BatchAxes) -> None:
        self._graph, self._batch = graph, batch
        self._taken = set(graph.tensors())
        self._count: gs.Tensor | None = None

    def apply(self) -> None:
        """Change the graph, in place."""
        for node in list(self._graph.nodes):
            target = self._batch.targets.get(node.outputs[0].name) if node.outputs else None
            if target is not None:
                node.inputs[1] = self._constant(f"{node.outputs[0].name}_shape", target)
                node.attrs.pop("allowzero", None)
            for index, tensor in enumerate(list(node.inputs)):
                if (axis := self._batch.cuts.get((id(node), index))) is not None:
                    node.inputs[index] = self._first(tensor, axis)
                if (axis := self._batch.grown.get((id(node), index))) is not None:
                    node.inputs[index] = self._repeated(tensor, axis)
        for tensor in {**self._graph.tensors(), **{t.name: t for t in self._graph.outputs}}.values():
            place = self._batch.of(tensor)
            if place is not None and tensor.shape is not None:
                extents = list(tensor.shape)
                extents[place.axis] = BATCH if place.inner == 1 else None
                tensor.shape = extents
        self._graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")

    def _first(self, tensor: gs.Tensor, axis: int) -> gs.Tensor:
        """[B, 1, H] -> [1, 1, H]."""
        bounds = [
            self._constant(f"{tensor.name}_{part}", [at]) for part, at in (("from", 0), ("to", 1), ("axis", axis))
        ]
        return add_node(
            self._graph.nodes, "Slice", self._free(f"{tensor.name}_of_one"), [tensor, *bounds], tensor.dtype
        )

    def _repeated(self, tensor: gs.Tensor, axis: int) -> gs.Tensor:
        """[1, 1, H], or the same for all of [B, 1, H] -> [batch, 1, H]."""
        extents = list(self._batch.shape(tensor))
        one = tensor if extents[axis] == 1 else self._first(tensor, axis)
        parts = [
            self._batch_size() if place == axis else self._constant(f"{tensor.name}_extent", [extent])
            for place, extent in enumerate(extents)
        ]
        nodes = self._graph.nodes
        shape = add_node(nodes, "Concat", self._free(f"{tensor.name}_shape"), parts, np.int64, axis=0)
        return add_node(nodes, "Expand", self._free(f"{tensor.name}_of_all"), [one, shape], tensor.dtype)

    def _batch_size(self) -> gs.Tensor:
        """How many samples the run has, as [1] int64."""
        if self._count is None:
            tensor = self._graph.inputs[0]
            axis = self._batch.require(tensor).axis
            nodes, name = self._graph.nodes, self._free(f"{tensor.name}_batch")
            whole = add_node(nodes, "Shape", self._free(f"{tensor.name}_extents"), [tensor], np.int64)
            self._count = add_node(nodes, "Gather", name, [whole, self._constant(f"{name}_axis", [axis])], np.int64)
        return self._count

    def _constant(self, name: str, values: list[int]) -> gs.Constant:
        return gs.Constant(self._free(name), np.array(values, np.int64))

    def _free(self, name: str) -> str:
        free = next(n for n in (name, *(f"{name}_{i}" for i in range(len(self._taken)))) if n not in self._taken)
        self._taken.add(free)
        return free
