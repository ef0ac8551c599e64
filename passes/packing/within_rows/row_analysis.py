"""``within_rows``: which nodes keep apart the samples that share a row.

Rows are independent of each other as the entries of any batch are, so only the sequence axes matter. Each tensor that
depends on the inputs is in one of these states:

- ``TOKEN``: one sequence axis; what stands at a place depends on the tokens of the sample that owns the place.
- ``PAIR``: two sequence axes; what stands at (i, j) depends on the samples that own i and j.
- ``BLOCK``: a ``PAIR`` that is zero wherever i and j belong to different samples.
- positional (:mod:`passes.packing.tokens.positional`): a function of the sequence length alone.

A softmax over pairs becomes ``BLOCK`` once the operator AttentionMask is added to its input, whatever idiom masks the
padding. Everything that cannot be shown to keep samples apart is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx_graphsurgeon as gs

from passes.errors import PackingError
from passes.operators import Family, members
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap, show
from passes.packing.tokens.positional import Positional, own_places, sequence_axes
from passes.packing.tokens.quantised import refuse_scales, scaled_axis
from passes.packing.tokens.token_wise import why_not_token_wise
from passes.refusal import Cause, Refusal, RefusedError, because, explain, refused
from passes.shapes.symbolic import Shape


class State(enum.Enum):
    """What is known of a tensor that depends on the inputs."""

    TOKEN = 1
    PAIR = 2
    BLOCK = 3


@dataclass
class RowPlan:
    """What the rewrite has to do.

    Attributes:
        masked: softmax nodes that get the AttentionMask, and fused attention nodes.
        placed: (node, input index, sequence axis of the result) of operands to be read by position.
        counted: running sums along the row, to be restarted at each sample.
        states: tensor name -> state.
    """

    masked: list[gs.Node] = field(default_factory=list)
    placed: list[tuple[gs.Node, int, int]] = field(default_factory=list)
    counted: list[gs.Node] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)

    def forget(self, node: gs.Node) -> None:
        """Drop what was planned for a node that turned out to mix samples."""
        self.masked = [item for item in self.masked if item is not node]
        self.placed = [item for item in self.placed if item[0] is not node]
        self.counted = [item for item in self.counted if item is not node]


_MEASURES = members(Family.EXTENT)
#: Extents at which indices are looked at.
_ROWS, _PLACES = 3, 8

#: Of a node whose input was refused.
_FOLLOWS = because("its input mixes the samples of a row", Cause.FOLLOWS)


#: Gives the state of a node's results, or raises RefusedError.
Rule: TypeAlias = "Callable[[RowAnalysis, gs.Node], State]"


class RowAnalysis:
    """Walks the graph once and makes a :class:`RowPlan`.

    Args:
        graph: in topological order.
        axes: shapes of its tensors.
        positional: its positional tensors.
        columns: places in a row.
        rules: by domain and operator, what a node makes of its inputs' states
            (:mod:`passes.packing.within_rows.row_rules`).
        of_run: names of tensors that are the same for all samples of a run, and so like constants.
    """

    def __init__(
        self,
        graph: gs.Graph,
        axes: AxisMap,
        positional: Positional,
        columns: int,
        rules: Mapping[tuple[str, str], Rule],
        of_run: frozenset[str] = frozenset(),
    ) -> None:
        self._of_run = of_run
        self._graph, self._axes, self._positional, self._columns = graph, axes, positional, columns
        self._rules = rules
        self.plan = RowPlan(states={tensor.name: State.TOKEN for tensor in graph.inputs})

    def run(self) -> dict[int, Refusal]:
        """Fill ``plan``; returns ``id(node)`` -> why, for each node that mixes samples, and what reads its result."""
        mixing: dict[int, Refusal] = {}
        lost: set[str] = set()
        for node in self._graph.nodes:
            if self._is_known(node):
                continue
            if any(tensor.name in lost for tensor in node.inputs):
                mixing[id(node)] = _FOLLOWS.at(node)
                lost.update(tensor.name for tensor in node.outputs)
                continue
            try:
                state = self._state(node)
            except RefusedError as error:
                self.plan.forget(node)
                mixing[id(node)] = error.refusal.at(node)
                lost.update(tensor.name for tensor in node.outputs)
                continue
            self.plan.states.update({tensor.name: state for tensor in node.outputs if tensor.name})
        return mixing

    def _is_known(self, node: gs.Node) -> bool:
        return all(self.is_free(t) or t in self._positional for t in node.outputs) or node.op in _MEASURES

    def _state(self, node: gs.Node) -> State:
        rule = self._rules.get((node.domain or "", node.op))
        if rule is not None:
            return rule(self, node)
        refusal = why_not_token_wise(node, self._axes)
        if refusal is None and all(self.of(tensor) in (None, State.TOKEN) for tensor in node.inputs):
            if any(tensor in self._positional for tensor in node.inputs):
                raise refused("it reads positions")
            return State.TOKEN
        raise RefusedError(refusal or because(f"{node.op} is not known to keep the samples of a row apart"))

    # What the rules ask.

    def seq(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """Sequence axes of a tensor."""
        axes = sequence_axes(self._axes, tensor)
        if axes is None:
            raise refused(f"{tensor.name!r} {show(self._axes.shape(tensor))} has no plain sequence axis")
        return axes

    def shape(self, tensor: gs.Tensor) -> Shape:
        """Shape of a tensor."""
        shape = self._axes.shape(tensor)
        if shape is None:
            raise refused(f"the rank of {tensor.name!r} is unknown")
        return shape

    def rank(self, tensor: gs.Tensor) -> int:
        """Rank of a tensor."""
        return len(self.shape(tensor))

    def of(self, tensor: gs.Tensor) -> State | None:
        """State of a tensor; None where it is free or positional."""
        if self.is_free(tensor) or tensor in self._positional or tensor.is_empty():
            return None
        state = self.plan.states.get(tensor.name)
        if state is None:
            raise refused(f"nothing is known of {tensor.name!r}")
        return state

    def is_free(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor depends on no input, or on values of the run alone."""
        return self._axes.is_free(tensor) or tensor.name in self._of_run

    def is_positional(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor depends on the length of the sequence alone."""
        return tensor in self._positional

    def takes_own_places(self, node: gs.Node) -> bool:
        """Whether a GatherND of [batch, sequence] takes, at each place of its result, what stands at that place."""
        data, indices = node.inputs
        batch = [axis for axis, extent in enumerate(self.shape(node.outputs[0])) if extent == BATCH]
        if node.attrs.get("batch_dims", 0) or self.shape(data)[:2] != (BATCH, SEQ) or len(batch) != 1:
            return False
        if indices not in self._positional:
            return False
        picked = self._positional.value(indices, _PLACES, _ROWS)
        return own_places(picked, batch[0], self.seq(node.outputs[0])) is not None

    def by_rank(self, node: gs.Node, *, block: bool = False) -> State:
        """The state of a node's result, by its number of sequence axes."""
        axes = self.seq(node.outputs[0])
        if len(axes) == 1:
            return State.TOKEN
        if len(axes) == 2:
            return State.BLOCK if block else State.PAIR
        raise refused(f"its result {show(self.shape(node.outputs[0]))} does not belong to one place or a pair of them")

    def check_scales(self, node: gs.Node) -> None:
        """Check that a (de)quantisation has the same scales at every place of a row, and in every run."""
        refusal = refuse_scales(node, self._axes)
        if refusal is not None:
            raise RefusedError(refusal)
        if scaled_axis(node, self._axes) in self.seq(node.inputs[0]):
            raise refused("its scales differ from place to place of a row")

    def operands(self, node: gs.Node, indices: range | None = None) -> None:
        """Check that operands that broadcast to the result line up with its sequence axes; note positional ones."""
        output = node.outputs[0]
        out_axes, out_rank = self.seq(output), self.rank(output)
        for index in indices or range(len(node.inputs)):
            tensor = node.inputs[index]
            if tensor.is_empty():
                continue
            shift = out_rank - self.rank(tensor)
            own = tuple(axis + shift for axis in self.seq(tensor))
            if not set(own) <= set(out_axes):
                raise refused(f"{tensor.name!r} {show(self.shape(tensor))} does not line up with its result")
            if self.is_free(tensor):
                self._check_free(tensor, shift, out_axes)
            elif tensor in self._positional:
                self.positional_operand(node, index, own, shift)
            elif not own:
                raise refused(f"{tensor.name!r} {show(self.shape(tensor))} belongs to the row, not to a sample")

    def _check_free(self, tensor: gs.Tensor, shift: int, out_axes: tuple[int, ...]) -> None:
        shape = self.shape(tensor)
        if any(axis >= shift and shape[axis - shift] != 1 for axis in out_axes):
            raise refused(f"the constant {tensor.name!r} {show(shape)} differs from place to place of a row")

    def positional_operand(self, node: gs.Node, index: int, own: tuple[int, ...], shift: int) -> None:
        """A positional operand may be constant, relative, or read by position."""
        tensor = node.inputs[index]
        if not own:
            if not self._positional.is_constant(tensor, self._columns):
                raise refused(f"{tensor.name!r} depends on the length of the row")
        elif len(own) == 2:
            pair = (own[0] - shift, own[1] - shift)
            if not self._positional.is_relative(tensor, pair, self._columns):
                raise refused(
                    f"{tensor.name!r} relates places by more than their distance, and a sample may stand "
                    "anywhere in a row"
                )
        else:
            self._positional.value(tensor, self._columns)  # a table may be too short for a row
            self.plan.placed.append((node, index, own[0]))


def check_all_kept_apart(graph: gs.Graph, mixing: Mapping[int, Refusal]) -> None:
    """Raise PackingError naming the first nodes that mix the samples of a row."""
    refusals = [mixing[id(node)] for node in graph.nodes if id(node) in mixing]
    first = [refusal for refusal in refusals if refusal.cause is not Cause.FOLLOWS]
    if first:
        raise PackingError(
            f"samples cannot share a row of this model: {explain(first)}. Where that is its head (pooling, a class a "
            "sample), give --pack_args as well: the head then reads one final Unpack, a row a sample",
            first,
        )
