"""``within_rows``: what each operator does to the states of :mod:`passes.packing.within_rows.row_analysis`."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs
import sympy

from passes.fusion.attention_ops import input_at, require_attention_inputs
from passes.node_values import axes_argument, constant, known_values, pads_argument
from passes.operators import CONTRIB, CONTRIB_ELEMENTWISE, ELEMENTWISE, QUANTISATION, Family, lookup, members
from passes.packing.tokens.axes import BATCH, show
from passes.packing.tokens.quantised import keeps_zero, rounded_by
from passes.packing.within_rows.row_analysis import RowAnalysis, Rule, State
from passes.refusal import refused

#: Elements of a quantised constant up to which its numbers are looked at.
_FEW = 1 << 10

#: Domain and operator -> rule. An operator without a rule must treat every token alone.
ROW_RULES: dict[tuple[str, str], Rule] = {}


def _rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    def decorate(rule: Rule) -> Rule:
        ROW_RULES.update({(domain, op): rule for op in ops})
        return rule

    return decorate


# [B, S, H] TOKEN + [H] -> [B, S, H] TOKEN. [B, S, S] BLOCK * [B, S, S] PAIR -> [B, S, S] BLOCK.
@_rule(*ELEMENTWISE, "Dropout")
@_rule(*CONTRIB_ELEMENTWISE, domain=CONTRIB)
def _elementwise(analysis: RowAnalysis, node: gs.Node) -> State:
    analysis.operands(node)
    return analysis.by_rank(node, block=_keeps_zero(analysis, node))


def _keeps_zero(analysis: RowAnalysis, node: gs.Node) -> bool:
    """Whether the result is zero wherever a BLOCK operand is."""
    states = [analysis.of(tensor) for tensor in node.inputs]
    if node.op == "Mul":
        return State.BLOCK in states
    if node.op == "Div":
        return states[0] is State.BLOCK and states[1] not in (State.PAIR, State.BLOCK)  # zero by zero is NaN
    if node.op == "Dropout" or lookup(node.op, node.domain).keeps_zero:
        return states[0] is State.BLOCK
    if node.op == "Where":
        return all(
            state is State.BLOCK or _is_zero(tensor) for state, tensor in zip(states[1:], node.inputs[1:], strict=True)
        )
    return False


def _is_zero(tensor: gs.Tensor) -> bool:
    values = known_values(tensor, _FEW)
    return values is not None and not values.any()


# [B, S, S] BLOCK by a constant scale -> [B, S, S] BLOCK, where zero stays zero. [B, S, H] by [S] scales: refused.
@_rule(*QUANTISATION)
def _quantisation(analysis: RowAnalysis, node: gs.Node) -> State:
    analysis.check_scales(node)
    # Levels of what is zero are the zero point; read as numbers again, they are zero.
    source = rounded_by(node)
    zero = analysis.of(node.inputs[0]) is State.BLOCK and keeps_zero(node)
    return analysis.by_rank(node, block=zero or (source is not None and analysis.of(source) is State.BLOCK))


# [B, S, S] BLOCK @ [B, S, H] TOKEN -> [B, S, H] TOKEN. [B, S, S] PAIR @ [B, S, H] TOKEN mixes samples.
@_rule("MatMul")
def _matmul(analysis: RowAnalysis, node: gs.Node) -> State:
    left, right = node.inputs
    if analysis.rank(left) < 2 or analysis.rank(right) < 2:
        raise refused("one of its operands is a vector")
    contracted = {
        left.name: analysis.rank(left) - 1 in analysis.seq(left),
        right.name: analysis.rank(right) - 2 in analysis.seq(right),
    }
    if any(contracted.values()):
        states = (analysis.of(left), analysis.of(right))
        if State.BLOCK not in states or states == (State.BLOCK, State.BLOCK) or None in states:
            raise refused("it sums over the places of a row that no attention mask has kept apart")
        return analysis.by_rank(node)
    for index, tensor in enumerate(node.inputs):
        if analysis.is_positional(tensor):
            analysis.positional_operand(node, index, analysis.seq(tensor), 0)
        elif not analysis.is_free(tensor) and not analysis.seq(tensor):
            raise refused(f"{tensor.name!r} {show(analysis.shape(tensor))} belongs to the row, not to a sample")
        elif analysis.is_free(tensor) and analysis.seq(tensor):
            raise refused(f"the constant {tensor.name!r} has a sequence axis")
    if node.inputs and any(entry[0] is node for entry in analysis.plan.placed):
        raise refused("it multiplies by a matrix of positions")
    return analysis.by_rank(node)


# [B * S, H] @ [H, K] -> [B * S, K]: refused, its rows have no axis of places.
@_rule("Gemm")
def _gemm(analysis: RowAnalysis, node: gs.Node) -> State:
    raise refused("its rows are all places of all rows")


# [B, S, S] PAIR over axis 2 -> [B, S, S] BLOCK, once masked. [B, S, H] TOKEN over axis 2 -> TOKEN.
@_rule("Softmax", "LogSoftmax")
def _softmax(analysis: RowAnalysis, node: gs.Node) -> State:
    tensor = node.inputs[0]
    axes, rank = analysis.seq(tensor), analysis.rank(tensor)
    axis = int(node.attrs.get("axis", -1)) % rank
    if axis not in axes:
        return analysis.by_rank(node)
    if len(axes) != 2 or node.op != "Softmax":
        raise refused(f"it normalises over the places of a row: {show(analysis.shape(tensor))}")
    analysis.plan.masked.append(node)
    return State.BLOCK


# [B, S, H] TOKEN over axis 2 -> [B, S, H] TOKEN. Over axis 1 it mixes samples.
@_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _normalisation(analysis: RowAnalysis, node: gs.Node) -> State:
    tensor = node.inputs[0]
    first = int(node.attrs.get("axis", -1)) % analysis.rank(tensor)
    if any(axis >= first for axis in analysis.seq(tensor)):
        raise refused("it normalises over the places of a row")
    return analysis.by_rank(node)


# [B, S, H] TOKEN + [B, S, H] TOKEN over the last axis -> [B, S, H] TOKEN.
@_rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=CONTRIB)
def _skip_normalisation(analysis: RowAnalysis, node: gs.Node) -> State:
    analysis.operands(node, range(2))
    return _normalisation(analysis, node)


# [B, S, H] TOKEN over axis 2 -> [B, S, 1] TOKEN. ReduceSum [B, S, S] BLOCK over axis 2 -> [B, S, 1] TOKEN.
@_rule(*members(Family.REDUCTION))
def _reduce(analysis: RowAnalysis, node: gs.Node) -> State:
    tensor = node.inputs[0]
    reduced = axes_argument(node)
    if not reduced:
        raise refused("its axes are not constant")
    rank = analysis.rank(tensor)
    hit = {axis % rank for axis in reduced} & set(analysis.seq(tensor))
    if hit and not (node.op == "ReduceSum" and analysis.of(tensor) is State.BLOCK and len(hit) == 1):
        raise refused("it reduces over the places of a row")
    return analysis.by_rank(node)


# ArgMax [B, S, H] TOKEN over axis 2 -> [B, S, 1] TOKEN. Over axis 1 it mixes samples.
@_rule("ArgMax", "ArgMin", "LpNormalization", "Split", "Concat", "TopK")
def _along_axis(analysis: RowAnalysis, node: gs.Node) -> State:
    tensor = node.outputs[0] if node.op == "Concat" else node.inputs[0]
    default = 0 if node.op in ("ArgMax", "ArgMin", "Split") else -1
    axis = int(node.attrs.get("axis", default)) % analysis.rank(tensor)
    if axis in analysis.seq(tensor):
        raise refused("it works along the places of a row")
    if node.op == "Concat":
        for operand in node.inputs:
            if analysis.of(operand) is None or analysis.seq(operand) != analysis.seq(node.outputs[0]):
                raise refused(f"{operand.name!r} does not carry the same places")
    return analysis.by_rank(node)


# [B, S, H] TOKEN on axis 2 -> [B, S, h] TOKEN. On axis 1 -> [B, 1, H] it takes one place of a row.
@_rule("Slice")
def _slice(analysis: RowAnalysis, node: gs.Node) -> State:
    before, after = analysis.shape(node.inputs[0]), analysis.shape(node.outputs[0])
    axes = analysis.seq(node.inputs[0])
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and not node.inputs[4].is_empty() else None
    if analysis.seq(node.outputs[0]) != axes or (steps is not None and (steps < 0).any()):
        raise refused(f"it cuts along the places of a row: {show(before)} to {show(after)}")
    if any(analysis.of(tensor) is not None for tensor in node.inputs[1:]):
        raise refused("what it cuts depends on the inputs")
    # The sequence axes keep their whole extent, so nothing is cut there.
    return analysis.by_rank(node, block=before == after and analysis.of(node.inputs[0]) is State.BLOCK)


# [B, S, H] TOKEN on axis 2 -> [B, S, H + 1] TOKEN. On axis 1 it adds places to a row, or moves them within its extent.
@_rule("Pad")
def _pad(analysis: RowAnalysis, node: gs.Node) -> State:
    shape, seq = analysis.shape(node.inputs[0]), analysis.seq(node.inputs[0])
    if analysis.seq(node.outputs[0]) != seq:
        raise refused("it pads along the places of a row")
    pads = pads_argument(node, len(shape))
    if pads is None:
        raise refused("its pads are not constant")
    touched = {axis for axis, both in enumerate(pads) if any(both)}
    if touched & set(seq):
        raise refused("it pads along the places of a row")
    if any(shape[axis] == BATCH for axis in touched):
        raise refused("it pads along the rows")
    return analysis.by_rank(node)


# Transpose [B, h, S, S] BLOCK -> [B, S, h, S] BLOCK.
@_rule("Transpose", "Squeeze", "Unsqueeze")
def _moves_axes(analysis: RowAnalysis, node: gs.Node) -> State:
    return analysis.by_rank(node, block=analysis.of(node.inputs[0]) is State.BLOCK)


# [B, S, h * d] TOKEN -> [B, S, h, d] TOKEN. [B, S, H] -> [B, H, S] moves values between places.
@_rule("Reshape")
def _reshape(analysis: RowAnalysis, node: gs.Node) -> State:
    before, after = analysis.shape(node.inputs[0]), analysis.shape(node.outputs[0])
    ins, outs = analysis.seq(node.inputs[0]), analysis.seq(node.outputs[0])
    same = len(ins) == len(outs) and all(
        sympy.simplify(sympy.prod(before[:i]) - sympy.prod(after[:o])) == 0 for i, o in zip(ins, outs, strict=True)
    )
    if not same:
        raise refused(f"it moves values between places: {show(before)} to {show(after)}")
    return analysis.by_rank(node, block=analysis.of(node.inputs[0]) is State.BLOCK)


# [B, 1, S, S] BLOCK -> [B, h, S, S] BLOCK. [B, 1, H] -> [B, S, H] gives all places what the row has.
@_rule("Expand")
def _expand(analysis: RowAnalysis, node: gs.Node) -> State:
    analysis.operands(node, range(1))
    return analysis.by_rank(node, block=analysis.of(node.inputs[0]) is State.BLOCK)


# a table [V, H] at [B, S] TOKEN -> [B, S, H] TOKEN. [B, S, H] at [1] on axis 1 takes one place of a row.
@_rule("Gather")
def _gather(analysis: RowAnalysis, node: gs.Node) -> State:
    data, indices = node.inputs
    if analysis.is_free(data):
        return analysis.by_rank(node)
    axis = int(node.attrs.get("axis", 0)) % analysis.rank(data)
    if axis in analysis.seq(data):
        raise refused("it takes chosen places of a row")
    if not analysis.is_free(indices):
        raise refused(f"the indices {indices.name!r} depend on the inputs")
    return analysis.by_rank(node)


# [B, S] TOKEN at (row, key) for each (row, query, key) -> [B, 1, S, S] PAIR: how exporters index a mask.
@_rule("GatherND")
def _gather_nd(analysis: RowAnalysis, node: gs.Node) -> State:
    if analysis.of(node.inputs[0]) is not State.TOKEN or not analysis.takes_own_places(node):
        raise refused("it takes chosen places of a row")
    return analysis.by_rank(node)


# [B, S, H] TOKEN at [B, S, k] on axis 2 -> [B, S, k] TOKEN. On axis 1 it takes chosen places.
@_rule("GatherElements")
def _gather_elements(analysis: RowAnalysis, node: gs.Node) -> State:
    data, indices = node.inputs
    rank = analysis.rank(data)
    axis = int(node.attrs.get("axis", 0)) % rank
    shared = set(analysis.seq(data))
    if axis in shared or not shared <= set(analysis.seq(indices)):
        raise refused("it takes chosen places of a row")
    if analysis.is_positional(indices):
        analysis.positional_operand(node, 1, analysis.seq(indices), 0)
        if any(entry[0] is node for entry in analysis.plan.placed):
            raise refused("its indices are positions of a row")
    return analysis.by_rank(node)


# [B, S] TOKEN along axis 1 -> [B, S] TOKEN, restarted at each sample.
@_rule("CumSum")
def _running_sum(analysis: RowAnalysis, node: gs.Node) -> State:
    axis = constant(node.inputs[1])
    if axis is None:
        raise refused("its axis is not constant")
    where = int(axis.reshape(-1)[0]) % analysis.rank(node.inputs[0])
    if where in analysis.seq(node.inputs[0]):
        if analysis.rank(node.inputs[0]) != 2 or where != 1 or node.attrs.get("reverse", 0):
            raise refused("it runs along a row in a way that cannot be restarted at each sample")
        analysis.plan.counted.append(node)
    return analysis.by_rank(node)


# bst,bth->bsh of [B, S, S] BLOCK, [B, S, H] TOKEN -> [B, S, H] TOKEN.
@_rule("Einsum")
def _einsum(analysis: RowAnalysis, node: gs.Node) -> State:
    equation = str(node.attrs["equation"]).replace(" ", "")
    if "." in equation or "->" not in equation or len(node.inputs) != 2:
        raise refused(f"its equation {equation!r} does not name all axes of two operands")
    terms, result = equation.split("->")
    summed: set[str] = set()
    for term, tensor in zip(terms.split(","), node.inputs, strict=True):
        if analysis.is_positional(tensor):
            raise refused(f"{tensor.name!r} is a table of positions")
        summed |= {term[axis] for axis in analysis.seq(tensor)} - set(result)
    states = [analysis.of(tensor) for tensor in node.inputs]
    if summed and (State.BLOCK not in states or None in states or states.count(State.BLOCK) > 1):
        raise refused("it sums over the places of a row that no attention mask has kept apart")
    return analysis.by_rank(node)


# query, key and value [B, S, H] TOKEN -> [B, S, H] TOKEN, once masked.
@_rule("MultiHeadAttention", "Attention", domain=CONTRIB)
@_rule("Attention")
def _fused_attention(analysis: RowAnalysis, node: gs.Node) -> State:
    attention = require_attention_inputs(node)
    if len(attention.tokens) == 1:
        raise refused("it projects its input itself, in a way that expand_fused_ops leaves alone")
    if any(tensor.name for tensor in node.outputs[1:]):
        raise refused("it gives more than its first output")
    for index in attention.tokens:
        tensor = input_at(node, index)
        rank = analysis.rank(tensor) if tensor is not None else 0
        if (
            tensor is None
            or rank not in (3, 4)
            or analysis.of(tensor) is not State.TOKEN
            or analysis.seq(tensor) != (rank - 2,)
        ):
            raise refused("its query, key and value are not three tensors of the tokens of one row")
    for index in attention.masks:
        _check_attention_mask(analysis, node, index)
    analysis.plan.masked.append(node)
    return analysis.by_rank(node)


def _check_attention_mask(analysis: RowAnalysis, node: gs.Node, index: int) -> None:
    tensor = input_at(node, index)
    if tensor is None:
        return
    rank, own = analysis.rank(tensor), analysis.seq(tensor)
    if rank == 1:
        raise refused(f"{tensor.name!r} counts the tokens of a row, and is not known to count those of its mask")
    if analysis.is_free(tensor):
        analysis._check_free(tensor, 0, (rank - 2, rank - 1))
    elif analysis.is_positional(tensor):
        if len(own) == 1:
            raise refused(f"{tensor.name!r} is a mask of the places of a row")
        analysis.positional_operand(node, index, own, 0)
    elif not own or analysis.of(tensor) is None:
        raise refused(f"{tensor.name!r} {show(analysis.shape(tensor))} belongs to the row, not to a sample")
