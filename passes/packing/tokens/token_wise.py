"""Which nodes treat every token alone.

Each rule looks at one node and answers with the reason why it mixes tokens, or None when it does not. An operator
without a rule is taken to mix tokens: not knowing costs speed, never correctness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx_graphsurgeon as gs

from passes.node_values import axes_argument, constant, constant_or_empty, pads_argument
from passes.operators import (
    CONTRIB,
    CONTRIB_ELEMENTWISE,
    ELEMENTWISE,
    FIRST_ALONE,
    PRODUCTS_OF_FEW_BITS,
    QUANTISATION,
    Family,
    default_axis,
    members,
)
from passes.packing.tokens.axes import AxisMap, TokenAxes, blocks, is_known, show
from passes.packing.tokens.broadcasting import refuse_operand
from passes.packing.tokens.quantised import refuse_scales, scaled_axis
from passes.refusal import Refusal, because
from passes.shapes.symbolic import Shape

#: Why a node mixes tokens, or None.
Verdict = Refusal | None
Rule = Callable[[gs.Node, AxisMap], Verdict]

_RULES: dict[tuple[str, str], Rule] = {}


def why_not_token_wise(node: gs.Node, axes: AxisMap) -> Verdict:
    """None where ``node`` treats every token alone, else the reason why it must run on one row a sample."""
    if not any(axes.axes(tensor) for tensor in node.inputs):
        return because("none of its inputs carries tokens")
    rule = _RULES.get((node.domain or "", node.op))
    if rule is None:
        return because(f"{node.op} is not known to treat every token alone")
    for tensor in node.outputs:
        if tensor.name and axes.axes(tensor) is None:
            shape = show(axes.shape(tensor))
            return because(f"its output {tensor.name!r} has shape {shape}, not one axis for each of batch and sequence")
    return rule(node, axes)


def _rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    def decorate(rule: Rule) -> Rule:
        _RULES.update({(domain, op): rule for op in ops})
        return rule

    return decorate


def _broadcast(tensors: Iterable[gs.Tensor], node: gs.Node, axes: AxisMap) -> Verdict:
    for tensor in tensors:
        if not tensor.name and tensor.is_empty():
            continue
        refusal = refuse_operand(tensor, node.outputs[0], axes)
        if refusal:
            return refusal
    return None


# [B, S, H] + [H] -> [B, S, H]: token-wise. [B, S, H] + [1, S, H] as well, where positions are read token by token.
@_rule(*ELEMENTWISE - FIRST_ALONE)
@_rule(*CONTRIB_ELEMENTWISE, domain=CONTRIB)
def _elementwise(node: gs.Node, axes: AxisMap) -> Verdict:
    return _broadcast(node.inputs, node, axes)


# Clip [B, S, H], [], [] -> [B, S, H]: token-wise.
@_rule(*FIRST_ALONE)
def _first_operand_elementwise(node: gs.Node, axes: AxisMap) -> Verdict:
    return _broadcast(node.inputs[:1], node, axes) or _must_not_carry(node.inputs[1:], axes)


# [B, S, H] by a constant scale, or by [H] scales on axis 2 -> [B, S, H]: token-wise. By [S] on axis 1 it is not.
@_rule(*QUANTISATION)
def _quantisation(node: gs.Node, axes: AxisMap) -> Verdict:
    refusal = _broadcast(node.inputs[:1], node, axes) or refuse_scales(node, axes)
    axis = None if refusal else scaled_axis(node, axes)
    return refusal if axis is None else _untouched(node.inputs[0], [axis], axes)


# [B, S, H] -> [B, S, H]: token-wise, for it does nothing outside training.
@_rule("Dropout")
def _dropout(node: gs.Node, axes: AxisMap) -> Verdict:
    if len(node.inputs) > 2 and not _is_false(node.inputs[2]):
        return because("it may be in training mode")
    return _broadcast(node.inputs[:1], node, axes)


# [B, S, H] @ [H, K] -> [B, S, K]: token-wise. [B, S, H] @ [B, H, S] -> [B, S, S] relates tokens.
@_rule("MatMul")
def _matmul(node: gs.Node, axes: AxisMap) -> Verdict:
    left, right = node.inputs
    out_rank = len(axes.shape(node.outputs[0]) or ())
    token = axes.require(node.outputs[0])
    for operand, contracted in ((left, -1), (right, -2)):
        shape, own = axes.shape(operand), axes.axes(operand)
        if shape is None:
            return because(f"the rank of {operand.name!r} is unknown")
        if len(shape) < 2:
            return because(f"{operand.name!r} is a vector")
        if own is None:
            if not (axes.is_free(operand) or axes.is_uniform(operand)):
                return because(f"it contracts tokens: {operand.name!r} has shape {show(shape)}")
            leading = [
                shape[axis - (out_rank - len(shape))] for axis in token.positions if axis >= out_rank - len(shape)
            ]
            matrix_axis = -2 if operand is left else -1
            if any(extent != 1 for extent in leading) and not _only_matrix_axes(token, out_rank, matrix_axis, shape):
                return because(f"{operand.name!r} {show(shape)} differs from place to place")
        elif len(shape) + contracted in own.positions:
            return because(f"it contracts tokens: {operand.name!r} has shape {show(shape)}")
        elif TokenAxes(own.batch + out_rank - len(shape), own.seq + out_rank - len(shape)) != token:
            return because(f"{operand.name!r} {show(shape)} keeps its tokens in other axes than the result")
    return None


def _only_matrix_axes(token: TokenAxes, out_rank: int, matrix_axis: int, shape: Shape) -> bool:
    """Whether the operand's extents at the result's token axes belong to the matrix axes the other operand fills.

    x[b, s, h] @ W[h, k]: the result's axis 1 is x's row axis, while W's axis there is the contracted one.
    """
    offset = out_rank - len(shape)
    for axis in token.positions:
        own_axis = axis - offset
        is_matrix = axis >= out_rank - 2
        if own_axis >= 0 and not is_matrix and shape[own_axis] != 1:
            return False
        if is_matrix and axis == out_rank + matrix_axis:
            return False
    return True


# [B, S, H] by a matrix of 4 bits [H, K] -> [B, S, K]: token-wise. [B, H, S] would be contracted over tokens.
@_rule(*PRODUCTS_OF_FEW_BITS, domain=CONTRIB)
def _product_of_few_bits(node: gs.Node, axes: AxisMap) -> Verdict:
    data = node.inputs[0]
    rank = len(axes.shape(data) or ())
    return _untouched(data, [rank - 1], axes) or _must_be_free(node.inputs[1:], axes)


# [B * S, H] @ [H, K] -> [B * S, K]: token-wise. [B, H] @ [H, K] has no tokens left.
@_rule("Gemm")
def _gemm(node: gs.Node, axes: AxisMap) -> Verdict:
    data, weight, *bias = node.inputs
    if node.attrs.get("transA", 0) or axes.axes(data) != TokenAxes(0, 0):
        return because("its rows are not tokens")
    if not axes.is_free(weight):
        return because(f"{weight.name!r} is no constant matrix")
    return _broadcast(bias, node, axes)


# [B, H, S] with a kernel [K, H, 1] -> [B, K, S]: token-wise. A kernel [K, H, 3] sees its neighbours.
@_rule("Conv")
def _convolution(node: gs.Node, axes: AxisMap) -> Verdict:
    weight = axes.shape(node.inputs[1])
    token = axes.axes(node.inputs[0])
    if weight is None or token is None or 1 in token.positions:
        return because(f"{node.inputs[0].name!r} keeps its tokens in the channel axis")
    if any(extent != 1 for extent in weight[2:]) or any(step != 1 for step in node.attrs.get("strides", ())):
        return because(f"its kernel {show(weight[2:])} reaches over several tokens")
    if any(node.attrs.get("pads", ())) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return because("it pads")
    return _must_be_free(node.inputs[1:], axes)


# [B, S, H] over axis -1 -> [B, S, H]: token-wise. Over axis 1 it sees all tokens of a sample.
@_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _normalisation(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.inputs[0]) or ())
    first = _normalised(node.attrs.get("axis", -1), rank)
    return _untouched(node.inputs[0], range(first, rank), axes) or _must_be_free(node.inputs[1:], axes)


# [B, S, H] + [B, S, H] over the last axis -> [B, S, H]: token-wise.
@_rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=CONTRIB)
def _skip_normalisation(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.inputs[0]) or ())
    refusal = _untouched(node.inputs[0], [rank - 1], axes) or _broadcast(node.inputs[:2], node, axes)
    return refusal or _must_be_free(node.inputs[2:], axes)


# [B, H, S] with a scale [H] -> [B, H, S]: token-wise. [B, S, H] has a scale for each place.
@_rule("BatchNormalization")
def _batch_normalisation(node: gs.Node, axes: AxisMap) -> Verdict:
    if node.attrs.get("training_mode", 0):
        return because("it is in training mode")
    return _untouched(node.inputs[0], [1], axes) or _must_be_free(node.inputs[1:], axes)


# [B, S, H] over axis -1 -> [B, S, H]: token-wise. Over axis 1 it weighs tokens.
@_rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.inputs[0]) or ())
    axis = _normalised(node.attrs.get("axis", default_axis(node.op, axes.opset)), rank)
    return _untouched(node.inputs[0], [axis] if axes.opset >= 13 else range(axis, rank), axes)


# TopK [B, S, H] over axis -1 -> [B, S, k]: token-wise. Over axis 1 it sorts tokens.
@_rule("LpNormalization", "ArgMax", "ArgMin", "TopK", "CumSum", "OneHot")
def _along_one_axis(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.inputs[0]) or ())
    if node.op == "CumSum":
        values = constant(node.inputs[1])
        if values is None:
            return because("its axis is not a constant")
        axis = int(values.reshape(-1)[0])
    else:
        axis = node.attrs.get("axis", default_axis(node.op, axes.opset))
    if node.op == "OneHot":
        if axis not in (-1, rank):
            return because("it does not add the last axis")
        return _must_be_free(node.inputs[1:], axes)
    return _untouched(node.inputs[0], [_normalised(axis, rank)], axes) or _must_be_free(node.inputs[1:], axes)


# [B, S, H] over axis 2 -> [B, S, 1]: token-wise. Over axis 1 -> [B, 1, H] it sums tokens.
@_rule(*members(Family.REDUCTION))
def _reduce(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.inputs[0]) or ())
    reduced = axes_argument(node)
    if reduced is None:
        return because("its axes are not constant")
    if not reduced and not node.attrs.get("noop_with_empty_axes", 0):
        return because("it reduces over all axes")
    return _untouched(node.inputs[0], [_normalised(axis, rank) for axis in reduced], axes)


# [B, S, H], [B, S, K] on axis 2 -> [B, S, H + K]: token-wise. On axis 1 it lays tokens behind tokens.
@_rule("Concat")
def _concat(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.outputs[0]) or ())
    refusal = _untouched(node.outputs[0], [_normalised(node.attrs["axis"], rank)], axes)
    if refusal:
        return refusal
    token = axes.axes(node.outputs[0])
    other = next((tensor for tensor in node.inputs if axes.axes(tensor) != token), None)
    if other is None:
        return None
    return because(f"{other.name!r} {show(axes.shape(other))} does not carry the same tokens")


# [B, S, 2 * H] on axis 2 -> [B, S, H], [B, S, H]: token-wise. On axis 1 it divides the tokens.
@_rule("Split")
def _split(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.inputs[0]) or ())
    axis = _normalised(node.attrs.get("axis", 0), rank)
    return _untouched(node.inputs[0], [axis], axes) or _must_be_free(node.inputs[1:], axes)


# [B, S, H] on axis 2 -> [B, S, h]: token-wise. On axis 1 -> [B, 1, H] it takes one token.
@_rule("Slice")
def _slice(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.inputs[0]) or ())
    if axes.opset < 10:
        cut = node.attrs.get("axes", range(len(node.attrs["starts"])))
    elif len(node.inputs) > 3 and node.inputs[3].name:
        values = constant(node.inputs[3])
        if values is None:
            return because("its axes are not constant")
        cut = values.reshape(-1).tolist()
    else:
        cut = range(len(constant_or_empty(node.inputs[1])) or rank)
    return _untouched(node.inputs[0], [_normalised(axis, rank) for axis in cut], axes) or _must_be_free(
        node.inputs[1:], axes
    )


# [B, S, H] on axis 2 -> [B, S, H + 1]: token-wise. On axis 1 it adds tokens.
@_rule("Pad")
def _pad(node: gs.Node, axes: AxisMap) -> Verdict:
    rank = len(axes.shape(node.inputs[0]) or ())
    pads = pads_argument(node, rank)
    if pads is None:
        return because("its pads are not constant")
    touched = [axis for axis, both in enumerate(pads) if any(both)]
    return _untouched(node.inputs[0], touched, axes) or _must_be_free(node.inputs[1:], axes)


# a table [V, H] at [B, S] -> [B, S, H]: token-wise. [B, S, H] at [1] on axis 1 -> [B, 1, H] takes one token.
@_rule("Gather")
def _gather(node: gs.Node, axes: AxisMap) -> Verdict:
    data, indices = node.inputs
    data_shape = axes.shape(data)
    if data_shape is None:
        return because(f"the rank of {data.name!r} is unknown")
    axis = _normalised(node.attrs.get("axis", 0), len(data_shape))
    if axes.axes(indices) is not None:
        return None if axes.is_free(data) else because(f"the table {data.name!r} depends on the inputs")
    if not (axes.is_free(indices) or axes.is_uniform(indices)):
        return because(f"the indices {indices.name!r} differ from sample to sample")
    return _untouched(data, [axis], axes)


# a table of 4 bits [V, H] at [B, S] -> [B, S, H]: token-wise, as the Gather of its values is.
@_rule("GatherBlockQuantized", domain=CONTRIB)
def _quantised_lookup(node: gs.Node, axes: AxisMap) -> Verdict:
    table, indices, *parameters = node.inputs
    if axes.axes(indices) is None:
        return because(f"the indices {indices.name!r} do not carry tokens")
    return _must_be_free([table, *parameters], axes)


# [B, S, H] at [B, S, k] on axis 2 -> [B, S, k]: token-wise.
@_rule("GatherElements")
def _gather_elements(node: gs.Node, axes: AxisMap) -> Verdict:
    data, indices = node.inputs
    if axes.axes(data) is None or axes.axes(data) != axes.axes(indices):
        return because("data and indices do not carry the same tokens")
    rank = len(axes.shape(data) or ())
    return _untouched(data, [_normalised(node.attrs.get("axis", 0), rank)], axes)


# Transpose [B, S, H] -> [H, B, S]: token-wise.
@_rule("Transpose", "Squeeze", "Unsqueeze")
def _moves_axes(node: gs.Node, axes: AxisMap) -> Verdict:
    if node.op != "Transpose" and not axes_argument(node):
        return because("its axes are not constant")  # or left out: a Squeeze would drop a packed axis of extent 1
    return None  # the output carries tokens, and no value meets another


# [B, S, h * d] -> [B, S, h, d]: token-wise. [B, S, H] -> [B, H, S] moves values between tokens.
@_rule("Reshape")
def _reshape(node: gs.Node, axes: AxisMap) -> Verdict:
    source, target = axes.shape(node.inputs[0]), axes.shape(node.outputs[0])
    before, after = axes.axes(node.inputs[0]), axes.axes(node.outputs[0])
    if source is None or target is None or before is None or after is None:
        return because(f"{node.inputs[0].name!r} does not carry tokens")
    if blocks(source, before) != blocks(target, after):
        return because(f"it moves values between tokens: {show(source)} to {show(target)}")
    if not all(is_known(extent) for axis, extent in enumerate(target) if axis not in after.positions):
        return because(f"its target {show(target)} has an extent that is not known")
    return None


# [B, S, 1] -> [B, S, H]: token-wise. [B, 1, H] -> [B, S, H] gives each token what the sample has.
@_rule("Expand")
def _expand(node: gs.Node, axes: AxisMap) -> Verdict:
    target, token = axes.require_shape(node.outputs[0]), axes.require(node.outputs[0])
    if not all(is_known(extent) for axis, extent in enumerate(target) if axis not in token.positions):
        return because(f"its target {show(target)} has an extent that is not known")
    return refuse_operand(node.inputs[0], node.outputs[0], axes)


# bsh,hk->bsk of [B, S, H], [H, K] -> [B, S, K]: token-wise. bsh,bsk->bhk sums tokens.
@_rule("Einsum")
def _einsum(node: gs.Node, axes: AxisMap) -> Verdict:
    equation = str(node.attrs["equation"]).replace(" ", "")
    if "." in equation or "->" not in equation:
        return because(f"its equation {equation!r} does not name all axes")
    terms, result = equation.split("->")
    token = axes.require(node.outputs[0])
    labels = {result[token.batch], result[token.seq]}
    for term, tensor in zip(terms.split(","), node.inputs, strict=True):
        own = axes.axes(tensor)
        if own is None and (not axes.is_free(tensor) or labels & set(term)):
            return because(f"{tensor.name!r} {show(axes.shape(tensor))} mixes tokens in {equation!r}")
        if own is not None and (term[own.batch], term[own.seq]) != (result[token.batch], result[token.seq]):
            return because(f"{tensor.name!r} keeps its tokens in other axes than the result of {equation!r}")
    return None


def _normalised(axis: int, rank: int) -> int:
    return int(axis) + rank if axis < 0 else int(axis)


def _untouched(tensor: gs.Tensor, touched: Iterable[int], axes: AxisMap) -> Verdict:
    token = axes.axes(tensor)
    if token is None:
        return because(f"{tensor.name!r} {show(axes.shape(tensor))} does not carry tokens")
    if set(token.positions) & set(touched):
        return because(f"it works along the tokens of {tensor.name!r} {show(axes.shape(tensor))}")
    return None


def _must_be_free(tensors: Iterable[gs.Tensor], axes: AxisMap) -> Verdict:
    bad = next((tensor for tensor in tensors if not tensor.is_empty() and not axes.is_free(tensor)), None)
    return because(f"{bad.name!r} depends on the inputs") if bad is not None else None


def _must_not_carry(tensors: Iterable[gs.Tensor], axes: AxisMap) -> Verdict:
    bad = next((tensor for tensor in tensors if not tensor.is_empty() and not axes.is_uniform(tensor)), None)
    return because(f"{bad.name!r} {show(axes.shape(bad))} is no scalar") if bad is not None else None


def _is_false(tensor: gs.Tensor) -> bool:
    values = constant(tensor)
    return tensor.is_empty() or (values is not None and not bool(values.reshape(-1)[0]))
