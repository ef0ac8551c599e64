"""Walks a graph and proves, node by node, that padding and neighbours stay hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.lookups import is_lookup
from passes.node_values import known_values
from passes.operators import ARGUED, KEEPS_VALUES
from passes.packing.isolation.facts import Facts, facts_of
from passes.packing.isolation.positions import PositionFacts
from passes.packing.isolation.values import NUMBER, ORDINARY, UNIT, UNKNOWN, ZERO, Values
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap, show
from passes.packing.tokens.positional import Positional
from passes.packing.tokens.quantised import refuse_scales, scaled_axis
from passes.packing.tokens.sides import PlacedGraph
from passes.packing.tokens.subsampling import WHOLE, Subsampling, subsampling_of
from passes.refusal import Cause, Refusal, RefusedError, because, refused
from passes.shapes.symbolic import Dim, Shape

#: Gives the facts of a node's results from those of its inputs, or raises RefusedError.
Rule: TypeAlias = "Callable[[View], Facts | list[Facts]]"

#: Elements of a constant up to which its values are looked at; masks and factors are small.
_LARGEST_LOOKED_AT = 1 << 20


#: A node that is not proved to hide padding or the other samples, and why; the cause says which.
Unproved: TypeAlias = tuple[gs.Node, Refusal]


class View:
    """One node, as its rule sees it. A node that runs packed has real tokens alone: no padding, no sequence axes."""

    def __init__(self, proof: IsolationProof, node: gs.Node, packed: bool) -> None:
        self._proof, self.node, self.packed = proof, node, packed
        self.opset: int = proof.axes.opset

    def shape(self, tensor: gs.Tensor) -> Shape:
        """The tensor's shape."""
        shape = self._proof.axes.shape(tensor)
        if shape is None:
            raise refused(f"the rank of {tensor.name!r} is unknown", Cause.SAMPLES)
        return shape

    def rank(self, tensor: gs.Tensor) -> int:
        """The tensor's rank."""
        return len(self.shape(tensor))

    def seq(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """The tensor's sequence axes."""
        if self.packed or tensor.is_empty() or self.is_free(tensor):
            return ()
        return growing_axes(self.shape(tensor), SEQ)

    def batch(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """The axes whose extent grows with the number of samples."""
        if self.packed or tensor.is_empty() or self.is_free(tensor):
            return ()
        return growing_axes(self.shape(tensor), BATCH)

    def is_free(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor depends on no input."""
        return self._proof.axes.is_free(tensor)

    def is_positional(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor depends on the extents alone."""
        return tensor in self._proof.positional

    def positions(self, tensor: gs.Tensor, seq: int, batch: int) -> np.ndarray:
        """A positional tensor's value in a run of ``batch`` samples of ``seq`` places."""
        return self._proof.positional.value(tensor, seq, batch)

    def is_boolean(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor holds truth values."""
        return element_type(self._proof.axes, tensor) == onnx.TensorProto.BOOL

    def refuse_scales(self) -> Refusal | None:
        """Why the scales of the node, a (de)quantisation, differ from run to run or from place to place."""
        refusal = refuse_scales(self.node, self._proof.axes)
        if refusal is None and scaled_axis(self.node, self._proof.axes) in self.seq(self.node.inputs[0]):
            return because("its scales differ from place to place")
        return refusal

    @property
    def graph_outputs(self) -> list[gs.Tensor]:
        """The outputs of the graph."""
        return self._proof.graph_outputs

    def facts(self, tensor: gs.Tensor) -> Facts:
        """What is known of an input, in the form in which the node reads it."""
        facts = self._proof.facts(tensor, packed=self.packed)
        if facts.by_distance is not None:
            raise refused(f"it reads the padded length from {facts.by_distance.table.name!r}", Cause.PADDING)
        return facts

    def facts_by_distance(self, tensor: gs.Tensor) -> Facts:
        """As :meth:`facts`, for rules that know what to do with an axis that is read by distance."""
        return self._proof.facts(tensor, packed=self.packed)

    def distances(self, tensor: gs.Tensor) -> int | None:
        """The axis of a positional tensor that grows with the length in a way of its own; None where there is none."""
        if self.is_free(tensor) or not self.is_positional(tensor):
            return None
        shape = self.shape(tensor)
        own = [axis for axis in growing_axes(shape, SEQ) if shape[axis] != SEQ and not _is_shortened(shape[axis])]
        return own[0] if len(own) == 1 and not growing_axes(shape, BATCH) else None

    def input(self, index: int) -> gs.Tensor | None:
        """An optional input; None where it is left out."""
        inputs = self.node.inputs
        return inputs[index] if index < len(inputs) and not inputs[index].is_empty() else None

    def axis(self, default: int, tensor: gs.Tensor | None = None) -> int:
        """The attribute ``axis``, counted from the front of ``tensor`` (the first input unless given)."""
        rank = self.rank(self.node.inputs[0] if tensor is None else tensor)
        return int(self.node.attrs.get("axis", default)) % max(rank, 1)


class IsolationProof:
    """Proves what it can of a graph in topological order.

    Args:
        placed: the graph before it is rewritten.
        masks: names of the inputs that serve as a mask alone; the packed model reads them as 0 and 1.
        width: places of the longest sample.
        rules: by domain and operator.
        crossing: what stands in the padded places of a packed tensor once it is unpacked; Unpack puts zeros there.
        handed: how the places of the results follow from the tokens; there a result is cut to the sample.
    """

    def __init__(
        self,
        placed: PlacedGraph,
        masks: Sequence[str],
        width: int,
        rules: Mapping[tuple[str, str], Rule],
        crossing: Callable[[str], Values] = lambda name: ZERO,
        handed: Subsampling = WHOLE,
    ) -> None:
        graph, self.axes = placed.graph, placed.axes
        self.positional = Positional(graph, self.axes)
        self.graph_outputs: list[gs.Tensor] = list(graph.outputs)
        self._placed, self._rules, self._crossing, self._handed = placed, rules, crossing, handed
        self._positions = PositionFacts(self.positional, self.axes, width)
        self._facts = {tensor.name: Facts(self._input_values(tensor, masks)) for tensor in graph.inputs}
        self._packed_names = {tensor.name for tensor in graph.inputs}

    def run(self) -> list[Unproved]:
        """The nodes that are not proved, in order."""
        unproved = []
        for node in self._placed.graph.nodes:
            if all(self.axes.is_free(tensor) or tensor in self.positional for tensor in node.outputs):
                continue
            packed = self._placed.runs_packed(node)
            if packed:
                self._packed_names.update(tensor.name for tensor in node.outputs)
            try:
                results = self._results(node, packed)
            except RefusedError as error:
                unproved.append((node, error.refusal.at(node)))
                results = self._after_a_leak(node, packed)
            self._facts.update({tensor.name: facts for tensor, facts in zip(node.outputs, results, strict=False)})
        return unproved + [leak for tensor in self.graph_outputs for leak in self._uncuttable(tensor)]

    def _uncuttable(self, tensor: gs.Tensor) -> list[Unproved]:
        """A result of which nobody can tell how much belongs to the sample: [n, L + 1] and the like."""
        shape = self.axes.shape(tensor) or ()
        if not tensor.inputs or all(subsampling_of(shape[axis]) == self._handed for axis in growing_axes(shape, SEQ)):
            return []
        node = tensor.inputs[0]
        return [(node, because(f"its result {show(shape)} has other places than the sample", Cause.PADDING).at(node))]

    def facts(self, tensor: gs.Tensor, *, packed: bool = False) -> Facts:
        """What is known of a tensor, on the unpacked side unless ``packed``.

        Raises:
            RefusedError: it is a number that depends on how far the samples are padded.
        """
        if self.axes.is_free(tensor):
            return Facts(_range(known_values(tensor, _LARGEST_LOOKED_AT)))
        if tensor in self.positional:
            return self._positions.facts(tensor)
        facts = self._facts.get(tensor.name, Facts())
        if packed:
            return Facts(facts.real)
        if tensor.name in self._packed_names:
            return facts_of(facts.real, self._seq(tensor), self._crossing(tensor.name))
        return facts

    def _results(self, node: gs.Node, packed: bool) -> list[Facts]:
        rule = self._rules.get((node.domain or "", node.op))
        if packed:
            self._check_lengths(node)
            return self._packed_results(node, rule)
        if rule is None:
            raise refused(f"{node.op} is not known to keep padding and samples apart", Cause.SAMPLES)
        results = rule(View(self, node, packed))
        return results if isinstance(results, list) else [results] * len(node.outputs)

    def _packed_results(self, node: gs.Node, rule: Rule | None) -> list[Facts]:
        """Bounds of what a packed node gives. It treats every token alone, so there is nothing to prove."""
        unknown = [Facts() for _ in node.outputs]
        if rule is None:
            return unknown
        try:
            results = rule(View(self, node, packed=True))
        except RefusedError:
            return unknown
        return results if isinstance(results, list) else [results] * len(node.outputs)

    def _check_lengths(self, node: gs.Node) -> None:
        """Raise where a packed node reads a number that depends on how far the samples are padded."""
        # Where an argument depends on the length, so does the shape of the result, which is known. A GatherND runs
        # packed where its indices name each row's own places (within_rows.row_rules), whatever the number of rows.
        values = node.inputs[:1] if node.op in ARGUED or node.op == "GatherND" else node.inputs
        for tensor in values:
            if not tensor.is_empty() and not self.axes.is_free(tensor) and tensor in self.positional:
                self._positions.facts(tensor)

    def _after_a_leak(self, node: gs.Node, packed: bool) -> list[Facts]:
        """Facts to go on with, so that what follows is judged by what it does itself."""
        return [Facts() if packed else facts_of(NUMBER, self._seq(tensor), ORDINARY) for tensor in node.outputs]

    def _seq(self, tensor: gs.Tensor) -> tuple[int, ...]:
        shape = self.axes.shape(tensor)
        return () if shape is None else growing_axes(shape, SEQ)

    def _input_values(self, tensor: gs.Tensor, masks: Sequence[str]) -> Values:
        if tensor.dtype is None or not np.issubdtype(tensor.dtype, np.integer):
            return UNIT if tensor.dtype == np.bool_ else NUMBER
        if tensor.name in masks:
            return UNIT
        return Values(0.0, NUMBER.high) if self._indexes_a_table(tensor) else NUMBER

    def _indexes_a_table(self, tensor: gs.Tensor) -> bool:
        """Whether the values are indices into a table, which are not negative: the runner refuses such."""
        for node in tensor.outputs:
            if is_lookup(node) and node.inputs[1] is tensor and self.axes.is_free(node.inputs[0]):
                return True
            if node.op in KEEPS_VALUES and node.inputs[0] is tensor and self._indexes_a_table(node.outputs[0]):
                return True
        return False


def _is_shortened(extent: Dim) -> bool:
    """Whether an extent counts what a stride leaves of the sequence."""
    places = subsampling_of(extent)
    return places is not None and places.stride > 1


def growing_axes(shape: Shape, symbol: sympy.Symbol) -> tuple[int, ...]:
    """The axes whose extent mentions ``symbol``."""
    return tuple(
        axis for axis, extent in enumerate(shape) if isinstance(extent, sympy.Expr) and symbol in extent.free_symbols
    )


def _range(values: np.ndarray | None) -> Values:
    """The values of a constant; those of an unknown one, and of a weight, are ordinary."""
    if values is None or not 0 < values.size <= _LARGEST_LOOKED_AT or values.dtype.kind not in "biuf":
        return ORDINARY
    low, high = float(values.min()), float(values.max())
    return UNKNOWN if np.isnan(low) or np.isnan(high) else Values(low, high)


def element_type(axes: AxisMap, tensor: gs.Tensor) -> int:
    """The ONNX element type of a tensor; FLOAT where it is not known."""
    return axes.shapes.dtypes.get(tensor.name, onnx.TensorProto.FLOAT)
