"""Nodes whose result depends on how far a sample was padded.

On the unpacked side a sample is padded with zeros to the longest of its pack. The attention mask keeps that from
showing. A node that averages over all places, or takes the last one, shows it; in the original model too, there the
result depends on the length of the batch. Such a model is refused: its answers would depend on the neighbours. A node
of which this cannot be told keeps the declared extents, so that every run pads to the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.node_values import axes_argument, constant
from passes.packing.axes import BATCH, SEQ, AxisMap
from passes.packing.placement import Placement
from passes.packing.positional import Positional

_SUMS = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
_SELECTS = frozenset(
    {"ReduceMax", "ReduceMin", "ReduceLogSumExp", "ReduceLogSum", "ReduceProd", "ArgMax", "ArgMin", "TopK"}
)
#: f(0) = 0: padding that is zero stays zero.
_KEEPS_ZERO = frozenset(
    {
        "Abs", "Cast", "Div", "Dropout", "Erf", "Expand", "Gelu", "Identity", "LeakyRelu", "Neg", "Relu", "Reshape",
        "Round", "Sign", "Slice", "Sqrt", "Squeeze", "Tanh", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
_LENGTHS = (8, 16)  # two lengths at which a value that does not depend on the length must agree


@dataclass(frozen=True)
class Leak:
    """A node to which padding shows.

    Attributes:
        node: the node.
        reason: what it does.
        certain: whether padding surely changes its result; otherwise it may.
    """

    node: gs.Node
    reason: str
    certain: bool


class LeakFinder:
    """Finds the nodes of the unpacked side to which padding shows.

    Args:
        graph: in topological order.
        axes: token axes of its tensors.
        placement: which nodes run packed.
        masks: names of the inputs that mask, explicitly or not.
    """

    def __init__(self, graph: gs.Graph, axes: AxisMap, placement: Placement, masks: Sequence[str]) -> None:
        self._graph, self._axes, self._placement = graph, axes, placement
        self._positional = Positional(graph, axes)
        self._masked = self._mask_arithmetic(set(masks))
        self._zero = self._zero_at_padding()

    def find(self) -> list[Leak]:
        """The nodes, in order."""
        found = []
        for node in self._graph.nodes:
            packed = self._placement.runs_packed(node)
            certain = None if packed else self._certain(node)
            possible = self._length(node) if packed else self._possible(node)
            if certain or possible:
                found.append(Leak(node, certain or possible or "", certain is not None))
        return found

    def _certain(self, node: gs.Node) -> str | None:
        if node.op.startswith("Reduce") or node.op in _SELECTS:
            return self._reduction(node)
        if node.op == "DynamicQuantizeLinear":
            return "it takes one scale from all samples of a run; quantise after packing, with --precision int8"
        if node.op in ("Softmax", "LogSoftmax"):
            axis = int(node.attrs.get("axis", -1))
            unmasked = self._is_seq(node.inputs[0], axis) and not self._is_masked(node.inputs[0])
            return "it normalises over padding, which nothing masks" if unmasked else None
        if node.op == "MatMul":
            left, right = node.inputs
            contracts = self._is_seq(left, -1) and self._is_seq(right, -2)
            harmless = any(self._is_masked(t) or self._is_zero(t) for t in node.inputs)
            return "it sums over padding, which nothing masks" if contracts and not harmless else None
        if node.op == "Gather" and self._is_seq(node.inputs[0], int(node.attrs.get("axis", 0))):
            places = constant(node.inputs[1])
            return "it takes the last place" if places is not None and (places < 0).any() else None
        return None

    def _possible(self, node: gs.Node) -> str | None:
        if node.op == "Gather" and self._is_seq(node.inputs[0], int(node.attrs.get("axis", 0))):
            places = constant(node.inputs[1])
            return None if places is not None and not places.any() else "it takes a place that may be padding"
        if node.op == "Conv" and not self._is_zero(node.inputs[0]):
            shape = self._axes.shape(node.inputs[0]) or ()
            return "it reaches over the end of a sample into padding" if SEQ in shape[2:] else None
        return self._length(node)

    def _reduction(self, node: gs.Node) -> str | None:
        tensor = node.inputs[0]
        rank = len(self._axes.shape(tensor) or ())
        if node.op.startswith("Reduce"):
            reduced = axes_argument(node) or list(range(rank))
        else:
            reduced = [int(node.attrs.get("axis", -1 if node.op == "TopK" else 0))]
        if self._is_float(tensor) and any(self._mentions(tensor, axis, BATCH) for axis in reduced):
            return "it reduces over the samples of a batch"
        if not any(self._is_seq(tensor, axis) for axis in reduced):
            return None
        if node.op in _SUMS and (self._is_zero(tensor) or self._is_masked(tensor)):
            return None
        if node.op in _SELECTS and self._is_masked(tensor):
            return None
        return "it averages over padding" if node.op == "ReduceMean" else "it reduces over padding"

    def _length(self, node: gs.Node) -> str | None:
        """Arithmetic on tokens or pairs with a number that grows with the padded length."""
        if node.op not in ("Add", "Sub", "Mul", "Div", "Pow"):
            return None
        for tensor in node.inputs:
            others = [other for other in node.inputs if other is not tensor]
            if tensor not in self._positional or any(self._axes.is_free(o) or o in self._positional for o in others):
                continue
            if self._axes.is_uniform(tensor) and not self._same_at_all_lengths(tensor):
                return f"it reads the padded length from {tensor.name!r}"
        return None

    def _same_at_all_lengths(self, tensor: gs.Tensor) -> bool:
        first, second = (self._positional.value(tensor, length) for length in _LENGTHS)
        return first.shape == second.shape and bool((first == second).all())

    def _is_float(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor holds values; numbers and truth values over a whole batch choose between branches."""
        dtype = self._axes.shapes.dtypes.get(tensor.name)
        return dtype is not None and np.issubdtype(onnx.helper.tensor_dtype_to_np_dtype(dtype), np.floating)

    def _is_seq(self, tensor: gs.Tensor, axis: int) -> bool:
        return self._mentions(tensor, axis, SEQ)

    def _mentions(self, tensor: gs.Tensor, axis: int, symbol: sympy.Symbol) -> bool:
        shape = self._axes.shape(tensor)
        if shape is None or not -len(shape) <= axis < len(shape) or self._axes.is_free(tensor):
            return False
        extent = shape[axis]
        return isinstance(extent, sympy.Expr) and symbol in extent.free_symbols

    def _is_masked(self, tensor: gs.Tensor) -> bool:
        return tensor.name in self._masked

    def _is_zero(self, tensor: gs.Tensor) -> bool:
        return tensor.name in self._zero

    def _mask_arithmetic(self, masked: set[str]) -> set[str]:
        """Tensors that the mask has a say in, within one stay on the unpacked side.

        What comes back to the packed side has been masked and is a hidden state again: it says nothing of padding.
        """
        produced_unpacked: set[str] = set()
        for node in self._graph.nodes:
            packed = self._placement.runs_packed(node)
            if not packed:
                produced_unpacked.update(tensor.name for tensor in node.outputs)
            read = [tensor for tensor in node.inputs if not self._axes.is_free(tensor)]
            if node.op in ("Shape", "Size") or not any(tensor.name in masked for tensor in read):
                continue
            if packed and not all(t.name in masked and t.name not in produced_unpacked for t in read):
                continue
            masked.update(tensor.name for tensor in node.outputs)
        return masked

    def _zero_at_padding(self) -> set[str]:
        """Tensors that hold zeros in the places that Unpack fills."""
        zero = {tensor.name for tensor in self._graph.inputs}
        for node in self._graph.nodes:
            if self._placement.runs_packed(node):
                zero.update(tensor.name for tensor in node.outputs)
                continue
            read = [tensor.name in zero for tensor in node.inputs]
            if node.op in ("Mul", "MatMul"):
                keeps = any(read)
            elif node.op in ("Concat", "Add", "Sub"):
                keeps = bool(read) and all(read)
            else:
                keeps = node.op in _KEEPS_ZERO and bool(read) and read[0]
            if keeps:
                zero.update(tensor.name for tensor in node.outputs)
        return zero
