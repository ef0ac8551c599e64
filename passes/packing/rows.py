"""Style B: which nodes keep apart the samples that share a row.

Rows are independent of each other as the entries of any batch are, so only the sequence axes matter. Each tensor that
depends on the inputs is in one of these states:

- ``TOKEN``: one sequence axis; what stands at a place depends on the tokens of the sample that owns the place.
- ``PAIR``: two sequence axes; what stands at (i, j) depends on the samples that own i and j.
- ``BLOCK``: a ``PAIR`` that is zero wherever i and j belong to different samples.
- positional (:mod:`passes.packing.positional`): a function of the sequence length alone.

A softmax over pairs becomes ``BLOCK`` once the operator AttentionMask is added to its input, whatever idiom masks the
padding. Everything that cannot be shown to keep samples apart is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs
import sympy

from passes.base import node_label
from passes.errors import PackingError
from passes.fusion.attention_ops import attention_inputs, input_at
from passes.packing.axes import AxisMap
from passes.packing.positional import Positional, sequence_axes
from passes.packing.tokenwise import axes_argument, constant, show, why_not_token_wise
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


#: The reason of a node whose input was refused.
_FOLLOWS = "its input mixes the samples of a row"


class RefusedError(Exception):
    """Why a node cannot be shown to keep samples apart."""


class RowAnalysis:
    """Walks the graph once and makes a :class:`RowPlan`.

    Args:
        graph: in topological order.
        axes: shapes of its tensors.
        positional: its positional tensors.
        columns: places in a row.
    """

    def __init__(self, graph: gs.Graph, axes: AxisMap, positional: Positional, columns: int) -> None:
        self._graph, self._axes, self._positional, self._columns = graph, axes, positional, columns
        self.plan = RowPlan(states={tensor.name: State.TOKEN for tensor in graph.inputs})

    def run(self) -> dict[int, str]:
        """Fill ``plan``; returns ``id(node)`` -> reason for each node that mixes samples, and what reads its result."""
        refused: dict[int, str] = {}
        lost: set[str] = set()
        for node in self._graph.nodes:
            if self._is_known(node):
                continue
            if any(tensor.name in lost for tensor in node.inputs):
                refused[id(node)] = _FOLLOWS
                lost.update(tensor.name for tensor in node.outputs)
                continue
            try:
                state = self._state(node)
            except RefusedError as reason:
                self.plan.forget(node)
                refused[id(node)] = str(reason)
                lost.update(tensor.name for tensor in node.outputs)
                continue
            self.plan.states.update({tensor.name: state for tensor in node.outputs if tensor.name})
        return refused

    def _is_known(self, node: gs.Node) -> bool:
        return all(self._axes.is_free(t) or t in self._positional for t in node.outputs) or node.op in ("Shape", "Size")

    def _state(self, node: gs.Node) -> State:
        rule = _RULES.get((node.domain or "", node.op))
        if rule is not None:
            return rule(self, node)
        reason = why_not_token_wise(node, self._axes, self._graph.opset)
        if reason is None and all(self.of(tensor) in (None, State.TOKEN) for tensor in node.inputs):
            if any(tensor in self._positional for tensor in node.inputs):
                raise RefusedError("it reads positions")
            return State.TOKEN
        raise RefusedError(reason or f"{node.op} is not known to keep the samples of a row apart")

    # What the rules ask.

    def seq(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """Sequence axes of a tensor."""
        found = sequence_axes(self._axes, tensor)
        if found is None:
            raise RefusedError(f"{tensor.name!r} {show(self._axes.shape(tensor))} has no plain sequence axis")
        return found

    def shape(self, tensor: gs.Tensor) -> Shape:
        """Shape of a tensor."""
        shape = self._axes.shape(tensor)
        if shape is None:
            raise RefusedError(f"the rank of {tensor.name!r} is unknown")
        return shape

    def rank(self, tensor: gs.Tensor) -> int:
        """Rank of a tensor."""
        return len(self.shape(tensor))

    def of(self, tensor: gs.Tensor) -> State | None:
        """State of a tensor; None where it is free or positional."""
        if self._axes.is_free(tensor) or tensor in self._positional or tensor.is_empty():
            return None
        state = self.plan.states.get(tensor.name)
        if state is None:
            raise RefusedError(f"nothing is known of {tensor.name!r}")
        return state

    def is_free(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor depends on no input."""
        return self._axes.is_free(tensor)

    def by_rank(self, node: gs.Node, *, block: bool = False) -> State:
        """The state of a node's result, by its number of sequence axes."""
        axes = self.seq(node.outputs[0])
        if len(axes) == 1:
            return State.TOKEN
        if len(axes) == 2:
            return State.BLOCK if block else State.PAIR
        raise RefusedError(
            f"its result {show(self.shape(node.outputs[0]))} does not belong to one place or a pair of them"
        )

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
                raise RefusedError(f"{tensor.name!r} {show(self.shape(tensor))} does not line up with its result")
            if self.is_free(tensor):
                self._check_free(tensor, shift, out_axes)
            elif tensor in self._positional:
                self.positional_operand(node, index, own, shift)
            elif not own:
                raise RefusedError(f"{tensor.name!r} {show(self.shape(tensor))} belongs to the row, not to a sample")

    def _check_free(self, tensor: gs.Tensor, shift: int, out_axes: tuple[int, ...]) -> None:
        shape = self.shape(tensor)
        if any(axis >= shift and shape[axis - shift] != 1 for axis in out_axes):
            raise RefusedError(f"the constant {tensor.name!r} {show(shape)} differs from place to place of a row")

    def positional_operand(self, node: gs.Node, index: int, own: tuple[int, ...], shift: int) -> None:
        """A positional operand may be constant, relative, or read by position."""
        tensor = node.inputs[index]
        if not own:
            if not self._positional.is_constant(tensor, self._columns):
                raise RefusedError(f"{tensor.name!r} depends on the length of the row")
        elif len(own) == 2:
            pair = (own[0] - shift, own[1] - shift)
            if not self._positional.is_relative(tensor, pair, self._columns):
                raise RefusedError(
                    f"{tensor.name!r} relates places by more than their distance, and a sample may stand "
                    "anywhere in a row"
                )
        else:
            self.plan.placed.append((node, index, own[0]))


_Rule = Callable[[RowAnalysis, gs.Node], State]
_RULES: dict[tuple[str, str], _Rule] = {}


def _rule(*ops: str, domain: str = "") -> Callable[[_Rule], _Rule]:
    def decorate(rule: _Rule) -> _Rule:
        _RULES.update({(domain, op): rule for op in ops})
        return rule

    return decorate


@_rule(
    "Abs", "Add", "And", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu",
    "Clip", "Cos", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual",
    "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean",
    "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "Where", "Xor",
)  # fmt: skip
@_rule("BiasGelu", "FastGelu", "Gelu", "QuickGelu", domain="com.microsoft")
def _elementwise(rows: RowAnalysis, node: gs.Node) -> State:
    rows.operands(node)
    return rows.by_rank(node, block=_keeps_zero(rows, node))


def _keeps_zero(rows: RowAnalysis, node: gs.Node) -> bool:
    """Whether the result is zero wherever a BLOCK operand is."""
    states = [rows.of(tensor) for tensor in node.inputs]
    if node.op == "Mul":
        return State.BLOCK in states
    if node.op in ("Div", "Cast", "CastLike", "Identity", "Neg", "Dropout", "Abs"):
        return states[0] is State.BLOCK
    if node.op == "Where":
        return all(
            state is State.BLOCK or _is_zero(tensor) for state, tensor in zip(states[1:], node.inputs[1:], strict=True)
        )
    return False


def _is_zero(tensor: gs.Tensor) -> bool:
    values = constant(tensor)
    return values is not None and not values.any()


@_rule("MatMul")
def _matmul(rows: RowAnalysis, node: gs.Node) -> State:
    left, right = node.inputs
    if rows.rank(left) < 2 or rows.rank(right) < 2:
        raise RefusedError("one of its operands is a vector")
    contracted = {left.name: rows.rank(left) - 1 in rows.seq(left), right.name: rows.rank(right) - 2 in rows.seq(right)}
    if any(contracted.values()):
        states = (rows.of(left), rows.of(right))
        if State.BLOCK not in states or states == (State.BLOCK, State.BLOCK) or None in states:
            raise RefusedError("it sums over the places of a row that no attention mask has kept apart")
        return rows.by_rank(node)
    for index, tensor in enumerate(node.inputs):
        if tensor in rows_positional(rows):
            rows.positional_operand(node, index, rows.seq(tensor), 0)
        elif not rows.is_free(tensor) and not rows.seq(tensor):
            raise RefusedError(f"{tensor.name!r} {show(rows.shape(tensor))} belongs to the row, not to a sample")
        elif rows.is_free(tensor) and rows.seq(tensor):
            raise RefusedError(f"the constant {tensor.name!r} has a sequence axis")
    if node.inputs and any(entry[0] is node for entry in rows.plan.placed):
        raise RefusedError("it multiplies by a matrix of positions")
    return rows.by_rank(node)


def rows_positional(rows: RowAnalysis) -> Positional:
    """The positional tensors that ``rows`` knows."""
    return rows._positional


@_rule("Gemm")
def _gemm(rows: RowAnalysis, node: gs.Node) -> State:
    raise RefusedError("its rows are all places of all rows")


@_rule("Softmax", "LogSoftmax")
def _softmax(rows: RowAnalysis, node: gs.Node) -> State:
    tensor = node.inputs[0]
    axes, rank = rows.seq(tensor), rows.rank(tensor)
    axis = int(node.attrs.get("axis", -1)) % rank
    if axis not in axes:
        return rows.by_rank(node)
    if len(axes) != 2 or node.op != "Softmax":
        raise RefusedError(f"it normalises over the places of a row: {show(rows.shape(tensor))}")
    rows.plan.masked.append(node)
    return State.BLOCK


@_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _normalisation(rows: RowAnalysis, node: gs.Node) -> State:
    tensor = node.inputs[0]
    first = int(node.attrs.get("axis", -1)) % rows.rank(tensor)
    if any(axis >= first for axis in rows.seq(tensor)):
        raise RefusedError("it normalises over the places of a row")
    return rows.by_rank(node)


@_rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_normalisation(rows: RowAnalysis, node: gs.Node) -> State:
    rows.operands(node, range(2))
    return _normalisation(rows, node)


@_rule(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
def _reduce(rows: RowAnalysis, node: gs.Node) -> State:
    tensor = node.inputs[0]
    reduced = axes_argument(node)
    if not reduced:
        raise RefusedError("its axes are not constant")
    rank = rows.rank(tensor)
    hit = {axis % rank for axis in reduced} & set(rows.seq(tensor))
    if hit and not (node.op == "ReduceSum" and rows.of(tensor) is State.BLOCK and len(hit) == 1):
        raise RefusedError("it reduces over the places of a row")
    return rows.by_rank(node)


@_rule("ArgMax", "ArgMin", "LpNormalization", "Split", "Concat", "TopK")
def _along_axis(rows: RowAnalysis, node: gs.Node) -> State:
    tensor = node.outputs[0] if node.op == "Concat" else node.inputs[0]
    default = 0 if node.op in ("ArgMax", "ArgMin", "Split") else -1
    axis = int(node.attrs.get("axis", default)) % rows.rank(tensor)
    if axis in rows.seq(tensor):
        raise RefusedError("it works along the places of a row")
    if node.op == "Concat":
        for operand in node.inputs:
            if rows.of(operand) is None or rows.seq(operand) != rows.seq(node.outputs[0]):
                raise RefusedError(f"{operand.name!r} does not carry the same places")
    return rows.by_rank(node)


@_rule("Slice")
def _slice(rows: RowAnalysis, node: gs.Node) -> State:
    before, after = rows.shape(node.inputs[0]), rows.shape(node.outputs[0])
    axes = rows.seq(node.inputs[0])
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and not node.inputs[4].is_empty() else None
    if rows.seq(node.outputs[0]) != axes or (steps is not None and (steps < 0).any()):
        raise RefusedError(f"it cuts along the places of a row: {show(before)} to {show(after)}")
    if any(rows.of(tensor) is not None for tensor in node.inputs[1:]):
        raise RefusedError("what it cuts depends on the inputs")
    # The sequence axes keep their whole extent, so nothing is cut there.
    return rows.by_rank(node, block=before == after and rows.of(node.inputs[0]) is State.BLOCK)


@_rule("Pad")
def _pad(rows: RowAnalysis, node: gs.Node) -> State:
    if rows.seq(node.outputs[0]) != rows.seq(node.inputs[0]):
        raise RefusedError("it pads along the places of a row")
    return rows.by_rank(node)


@_rule("Transpose", "Squeeze", "Unsqueeze")
def _moves_axes(rows: RowAnalysis, node: gs.Node) -> State:
    return rows.by_rank(node, block=rows.of(node.inputs[0]) is State.BLOCK)


@_rule("Reshape")
def _reshape(rows: RowAnalysis, node: gs.Node) -> State:
    before, after = rows.shape(node.inputs[0]), rows.shape(node.outputs[0])
    ins, outs = rows.seq(node.inputs[0]), rows.seq(node.outputs[0])
    same = len(ins) == len(outs) and all(
        sympy.simplify(sympy.prod(before[:i]) - sympy.prod(after[:o])) == 0 for i, o in zip(ins, outs, strict=True)
    )
    if not same:
        raise RefusedError(f"it moves values between places: {show(before)} to {show(after)}")
    return rows.by_rank(node, block=rows.of(node.inputs[0]) is State.BLOCK)


@_rule("Expand")
def _expand(rows: RowAnalysis, node: gs.Node) -> State:
    rows.operands(node, range(1))
    return rows.by_rank(node, block=rows.of(node.inputs[0]) is State.BLOCK)


@_rule("Gather")
def _gather(rows: RowAnalysis, node: gs.Node) -> State:
    data, indices = node.inputs
    if rows.is_free(data):
        return rows.by_rank(node)
    axis = int(node.attrs.get("axis", 0)) % rows.rank(data)
    if axis in rows.seq(data):
        raise RefusedError("it takes chosen places of a row")
    if not rows.is_free(indices):
        raise RefusedError(f"the indices {indices.name!r} depend on the inputs")
    return rows.by_rank(node)


@_rule("GatherElements")
def _gather_elements(rows: RowAnalysis, node: gs.Node) -> State:
    data, indices = node.inputs
    rank = rows.rank(data)
    axis = int(node.attrs.get("axis", 0)) % rank
    shared = set(rows.seq(data))
    if axis in shared or not shared <= set(rows.seq(indices)):
        raise RefusedError("it takes chosen places of a row")
    if indices in rows_positional(rows):
        rows.positional_operand(node, 1, rows.seq(indices), 0)
        if any(entry[0] is node for entry in rows.plan.placed):
            raise RefusedError("its indices are positions of a row")
    return rows.by_rank(node)


@_rule("CumSum")
def _running_sum(rows: RowAnalysis, node: gs.Node) -> State:
    axis = constant(node.inputs[1])
    if axis is None:
        raise RefusedError("its axis is not constant")
    where = int(axis.reshape(-1)[0]) % rows.rank(node.inputs[0])
    if where in rows.seq(node.inputs[0]):
        if rows.rank(node.inputs[0]) != 2 or where != 1 or node.attrs.get("reverse", 0):
            raise RefusedError("it runs along a row in a way that cannot be restarted at each sample")
        rows.plan.counted.append(node)
    return rows.by_rank(node)


@_rule("Einsum")
def _einsum(rows: RowAnalysis, node: gs.Node) -> State:
    equation = str(node.attrs["equation"]).replace(" ", "")
    if "." in equation or "->" not in equation or len(node.inputs) != 2:
        raise RefusedError(f"its equation {equation!r} does not name all axes of two operands")
    terms, result = equation.split("->")
    summed: set[str] = set()
    for term, tensor in zip(terms.split(","), node.inputs, strict=True):
        if tensor in rows_positional(rows):
            raise RefusedError(f"{tensor.name!r} is a table of positions")
        summed |= {term[axis] for axis in rows.seq(tensor)} - set(result)
    states = [rows.of(tensor) for tensor in node.inputs]
    if summed and (State.BLOCK not in states or None in states or states.count(State.BLOCK) > 1):
        raise RefusedError("it sums over the places of a row that no attention mask has kept apart")
    return rows.by_rank(node)


@_rule("MultiHeadAttention", "Attention", domain="com.microsoft")
@_rule("Attention")
def _fused_attention(rows: RowAnalysis, node: gs.Node) -> State:
    known = attention_inputs(node)
    assert known is not None
    if len(known.tokens) == 1:
        raise RefusedError("it projects its input itself, in a way that expand_fused_ops leaves alone")
    if any(tensor.name for tensor in node.outputs[1:]):
        raise RefusedError("it gives more than its first output")
    for index in known.tokens:
        tensor = input_at(node, index)
        rank = rows.rank(tensor) if tensor is not None else 0
        if (
            tensor is None
            or rank not in (3, 4)
            or rows.of(tensor) is not State.TOKEN
            or rows.seq(tensor) != (rank - 2,)
        ):
            raise RefusedError("its query, key and value are not three tensors of the tokens of one row")
    for index in known.masks:
        _check_attention_mask(rows, node, index)
    rows.plan.masked.append(node)
    return rows.by_rank(node)


def _check_attention_mask(rows: RowAnalysis, node: gs.Node, index: int) -> None:
    tensor = input_at(node, index)
    if tensor is None:
        return
    rank, own = rows.rank(tensor), rows.seq(tensor)
    if rank == 1:
        raise RefusedError(f"{tensor.name!r} counts the tokens of a row, and is not known to count those of its mask")
    if rows.is_free(tensor):
        rows._check_free(tensor, 0, (rank - 2, rank - 1))
    elif tensor in rows_positional(rows):
        if len(own) == 1:
            raise RefusedError(f"{tensor.name!r} is a mask of the places of a row")
        rows.positional_operand(node, index, own, 0)
    elif not own or rows.of(tensor) is None:
        raise RefusedError(f"{tensor.name!r} {show(rows.shape(tensor))} belongs to the row, not to a sample")


def check_all_kept_apart(graph: gs.Graph, refused: dict[int, str]) -> None:
    """Raise PackingError naming the first nodes that mix the samples of a row."""
    first = [
        node for node in graph.nodes if id(node) in refused and not refused[id(node)].startswith("its input mixes")
    ]
    if first:
        lines = "; ".join(f"{node_label(node)}: {refused[id(node)]}" for node in first[:3])
        more = f" (and {len(first) - 3} more)" if len(first) > 3 else ""
        raise PackingError(f"samples cannot share a row of this model: {lines}{more}")
