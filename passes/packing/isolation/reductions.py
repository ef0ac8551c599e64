"""Rules of operators that look along an axis: reductions, softmax, norms, sums of products.

sum over L of [n, L, H]: right where padding is zero. Largest over L: right where padding is below every real value.
softmax over L: right where padding is a low score; its weights there are zero, and zero times a number is zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import onnx_graphsurgeon as gs

from passes.node_values import axes_argument, constant
from passes.operators import CONTRIB, PRODUCTS_OF_FEW_BITS, Family, default_axis, lookup, members
from passes.packing.isolation import values as v
from passes.packing.isolation.facts import ByDistance, Facts, facts_of, moved
from passes.packing.isolation.proof import View
from passes.packing.isolation.table import rule
from passes.packing.isolation.values import Values
from passes.refusal import Cause, Refusal, RefusedError, because, refused

#: Where MatMulNBits has its bias.
_BIAS_OF_FEW_BITS = 5


def check_batch(view: View, tensor: gs.Tensor, axes: Iterable[int], what: str) -> None:
    """Raise where an operator that looks along ``axes`` would see several samples."""
    if set(axes) & set(view.batch(tensor)):
        raise refused(f"it {what} over the samples of a batch", Cause.BATCH)


def without(facts: Facts, axes: Sequence[int], keep: bool, values: Values | None = None) -> Facts:
    """Facts after ``axes`` were reduced; ``values`` are what the reduction makes of any of them."""
    dropped = sorted(axes)

    def place(axis: int) -> int | None:
        if axis in dropped:
            return None
        return axis if keep else axis - sum(gone < axis for gone in dropped)

    rest = moved(facts, place)
    if values is None:
        return rest
    return facts_of(values, tuple(rest.padded), v.ORDINARY if facts.anywhere.is_finite else v.UNKNOWN)


# ReduceSum [n, L, H] over L -> [n, 1, H]: proved where padding is zero. ReduceMean over L never is.
@rule(*members(Family.REDUCTION))
def _reduce(view: View) -> Facts:
    tensor = view.node.inputs[0]
    rank, facts = view.rank(tensor), view.facts(tensor)
    listed = axes_argument(view.node)
    if listed is None:
        raise refused("its axes are not constant", Cause.SAMPLES)
    if not listed and view.node.attrs.get("noop_with_empty_axes", 0):
        return facts
    axes = sorted({axis % rank for axis in listed}) if listed else list(range(rank))
    check_batch(view, tensor, axes, "reduces")
    for axis in set(axes) & set(view.seq(tensor)):
        refusal = _reduction_refusal(view.node.op, facts, axis)
        if refusal:
            raise RefusedError(refusal)
    keep = bool(view.node.attrs.get("keepdims", 1))
    if view.node.op in ("ReduceMax", "ReduceMin"):
        return without(facts, axes, keep)
    return without(facts, axes, keep, _reduced_values(view.node.op, facts.real))


def _reduction_refusal(op: str, facts: Facts, axis: int) -> Refusal | None:
    padding = facts.at(axis)
    if op == "ReduceMean":
        return because("it averages over padding", Cause.PADDING)
    harmless = {
        "ReduceMax": is_below_all(padding, facts.real),
        "ReduceMin": is_below_all(v.negate(padding), v.negate(facts.real)),
        "ReduceLogSumExp": padding.is_below(v.LOWEST_VALUE),
        "ReduceProd": padding.is_exact and padding.low == 1,
    }.get(op, padding.is_zero)
    return None if harmless else because("it reduces over padding", Cause.PADDING)


def is_below_all(padding: Values, real: Values) -> bool:
    """Whether no padded value is larger than any real one."""
    if padding.is_below(v.LOWEST_VALUE):
        return True
    return not (padding.nan or padding.ordinary or real.ordinary) and padding.high <= real.low


def _reduced_values(op: str, real: Values) -> Values:
    if lookup(op).bounds or (op in ("ReduceSum", "ReduceProd") and _positive(real)):
        return Values(0.0, v.LARGEST)
    return real if op == "ReduceMean" else v.NUMBER


def _positive(real: Values) -> bool:
    return not real.ordinary and not real.nan and real.low >= 0


# ArgMax [n, L] over L -> [n, 1]: proved where padding is below every real value.
@rule("ArgMax", "ArgMin")
def _arg(view: View) -> Facts:
    tensor = view.node.inputs[0]
    axis, facts = view.axis(0), view.facts(tensor)
    check_batch(view, tensor, [axis], "looks for the largest")
    if axis in view.seq(tensor):
        padding, real = facts.at(axis), facts.real
        if view.node.op == "ArgMin":
            padding, real = v.negate(padding), v.negate(real)
        if view.node.attrs.get("select_last_index", 0) or not is_below_all(padding, real):
            raise refused("it may find its place in padding", Cause.PADDING)
    return without(facts, [axis], bool(view.node.attrs.get("keepdims", 1)), Values(0.0, v.LARGEST))


# [n, h, L, L] over the last L -> [n, h, L, L]: proved where padding is low; its weights there are zero.
@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(view: View) -> Facts:
    tensor = view.node.inputs[0]
    rank, facts = view.rank(tensor), view.facts(tensor)
    axis = view.axis(default_axis(view.node.op, view.opset))
    axes = [axis] if view.opset >= 13 else list(range(axis, rank))
    check_batch(view, tensor, axes, "normalises")
    along = set(axes) & set(view.seq(tensor))
    for own in along:
        if not facts.at(own).is_below(v.LOW_SCORE):
            raise refused("it normalises over padding, which nothing masks", Cause.PADDING)
    logarithm = view.node.op == "LogSoftmax"
    kept = v.ZERO if not logarithm else Values(-math.inf, v.LOW_SCORE)
    # A row of padding may be -inf throughout, which gives NaN; a row of the sample has its own places in it.
    padded = {own: kept if own in along else _row(facts.at(own), logarithm) for own in facts.padded}
    return Facts(Values(-v.LARGEST, 0.0) if logarithm else v.UNIT, padded, _row(facts.corner, logarithm))


def _row(padding: Values, logarithm: bool) -> Values:
    if not padding.is_finite:
        return v.UNKNOWN
    return v.ORDINARY if logarithm else v.UNIT


# [n, h, L, L] @ [n, h, L, d] -> [n, h, L, d]: proved where the weights of padding are zero.
@rule("MatMul")
def _matmul(view: View) -> Facts:
    left, right = view.node.inputs
    ranks = view.rank(left), view.rank(right)
    if min(ranks) < 2:
        raise refused("one of its operands is a vector", Cause.PADDING if view.packed else Cause.SAMPLES)
    check_batch(view, left, [ranks[0] - 1], "sums")
    check_batch(view, right, [ranks[1] - 2], "sums")
    out_rank = view.rank(view.node.outputs[0])
    terms = [
        [*range(out_rank - ranks[0], out_rank - 1), "k"],
        [*range(out_rank - ranks[1], out_rank - 2), "k", out_rank - 1],
    ]
    return sum_of_products(view, [left, right], terms, list(range(out_rank)))


# [n, L, H] by a matrix of 4 bits [H, K] -> [n, L, K]: padding stays ordinary, zero stays zero without a bias.
@rule(*PRODUCTS_OF_FEW_BITS, domain=CONTRIB)
def _product_of_few_bits(view: View) -> Facts:
    data, scales = view.node.inputs[0], view.node.inputs[2]
    last = view.rank(data) - 1
    check_batch(view, data, [last], "sums")
    product = sum_of_products(view, [data, scales], [[*range(last), "k"], ["k"]], list(range(last + 1)))
    return product if view.input(_BIAS_OF_FEW_BITS) is None else _with_bias(product)


def _with_bias(product: Facts) -> Facts:
    """Facts of a product to which a constant is added."""
    return facts_of(v.NUMBER, tuple(product.padded), v.ORDINARY if product.anywhere.is_finite else v.UNKNOWN)


# [n * L, H] @ [H, K] -> [n * L, K]: padding stays ordinary.
@rule("Gemm")
def _gemm(view: View) -> Facts:
    left, right = view.node.inputs[:2]
    turned = [bool(view.node.attrs.get(name, 0)) for name in ("transA", "transB")]
    terms: list[list[object]] = [["k", 0] if turned[0] else [0, "k"], [1, "k"] if turned[1] else ["k", 1]]
    check_batch(view, left, [terms[0].index("k")], "sums")
    check_batch(view, right, [terms[1].index("k")], "sums")
    product = sum_of_products(view, [left, right], terms, [0, 1])
    return product if view.input(2) is None else _with_bias(product)


# nqk,nkd->nqd of [n, L, L], [n, L, d] -> [n, L, d]: proved as the MatMul is.
@rule("Einsum")
def _einsum(view: View) -> Facts:
    equation = str(view.node.attrs["equation"]).replace(" ", "")
    if "." in equation or "->" not in equation:
        raise refused(f"its equation {equation!r} does not name all axes", Cause.SAMPLES)
    terms, result = equation.split("->")
    parts = terms.split(",")
    for part, tensor in zip(parts, view.node.inputs, strict=True):
        if len(set(part)) != len(part):
            raise refused(f"its equation {equation!r} takes a diagonal", Cause.SAMPLES)
        summed = [axis for axis, label in enumerate(part) if label not in result]
        check_batch(view, tensor, summed, "sums")
    return sum_of_products(view, view.node.inputs, [list(part) for part in parts], list(result))


def sum_of_products(
    view: View, operands: Sequence[gs.Tensor], terms: Sequence[Sequence[object]], result: Sequence[object]
) -> Facts:
    """Facts of an einsum: each operand's axes by label, and the result's.

    Raises:
        RefusedError: it sums over padding where no factor is zero, or where another might not be a number.
    """
    tables = [view.distances(tensor) for tensor in operands]
    operand_facts = [
        Facts(v.ORDINARY) if table is not None else view.facts(tensor)
        for tensor, table in zip(operands, tables, strict=True)
    ]

    def product(label: object) -> Values:
        """What stands where the axis of ``label`` is at padding."""
        parts = [
            facts.padded.get(term.index(label), facts.real) if label in term else facts.real.as_padding_sees_it()
            for facts, term in zip(operand_facts, terms, strict=True)
        ]
        rest = [facts.anywhere for facts in operand_facts]
        if any(part.is_zero for part in parts):
            others = [whole for part, whole in zip(parts, rest, strict=True) if not part.is_zero]
            return v.ZERO if all(_is_number(item) for item in others) else v.UNKNOWN
        return v.ORDINARY if all(_is_number(item) for item in rest) else v.UNKNOWN

    for label in sorted({label for term in terms for label in term if label not in result}, key=str):
        at_padding = any(
            label in term and term.index(label) in f.padded for f, term in zip(operand_facts, terms, strict=True)
        )
        if at_padding and not product(label).is_zero:
            raise refused("it sums over padding, which nothing masks", Cause.PADDING)
    axes = view.seq(view.node.outputs[0])
    whole = v.ORDINARY if all(_is_number(facts.anywhere) for facts in operand_facts) else v.UNKNOWN
    distance = _by_distance(operands, tables, terms, result)
    return Facts(v.NUMBER, {axis: product(result[axis]) for axis in axes}, whole, distance)


def _by_distance(
    operands: Sequence[gs.Tensor],
    tables: Sequence[int | None],
    terms: Sequence[Sequence[object]],
    result: Sequence[object],
) -> ByDistance | None:
    """The axis of a product with a table of distances that is read by distance: [n, L, d] x [d, 2L] -> [n, L, 2L]."""
    for tensor, axis, term in zip(operands, tables, terms, strict=True):
        if axis is None:
            continue
        if term[axis] not in result or sum(table is not None for table in tables) > 1:
            raise refused(f"it reads the padded length from {tensor.name!r}", Cause.PADDING)
        return ByDistance(list(result).index(term[axis]), tensor, axis)
    return None


def _is_number(values: Values) -> bool:
    return values.is_finite


# [n, L, H] over H -> [n, L, H]: padding stays ordinary. Over L it is not proved.
@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _normalisation(view: View) -> list[Facts]:
    tensor = view.node.inputs[0]
    first = view.axis(-1)
    return _normalised(view, tensor, range(first, view.rank(tensor)))


# [n, L, H] + [n, L, H] over H -> [n, L, H]: padding stays ordinary.
@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=CONTRIB)
def _skip_normalisation(view: View) -> list[Facts]:
    tensor = view.node.inputs[0]
    return _normalised(view, tensor, [view.rank(tensor) - 1])


# [n, L, H] over H -> [n, L, H]: a padding of zeros is divided by zero.
@rule("LpNormalization")
def _lp_normalisation(view: View) -> list[Facts]:
    return _normalised(view, view.node.inputs[0], [view.axis(-1)], partial=True)


# [n, H, L] by channel -> [n, H, L]: padding stays ordinary.
@rule("BatchNormalization")
def _batch_normalisation(view: View) -> list[Facts]:
    if view.node.attrs.get("training_mode", 0):
        raise refused("it normalises over the samples of a batch: it is in training mode", Cause.SAMPLES)
    return _normalised(view, view.node.inputs[0], [1])


# [n, H, L] over n and L: not proved, it looks along samples and padding.
@rule("MeanVarianceNormalization")
def _mean_variance(view: View) -> list[Facts]:
    rank = view.rank(view.node.inputs[0])
    axes = [int(axis) % rank for axis in view.node.attrs.get("axes", (0, 2, 3))]
    return _normalised(view, view.node.inputs[0], axes)


# [n, H, L] over L -> [n, H, L]: not proved, padding counts.
@rule("InstanceNormalization", "GroupNormalization")
def _instance_normalisation(view: View) -> list[Facts]:
    tensor = view.node.inputs[0]
    if 1 in view.batch(tensor):
        raise refused("it normalises over the samples of a batch", Cause.SAMPLES)
    return _normalised(view, tensor, range(1 if view.node.op == "GroupNormalization" else 2, view.rank(tensor)))


def _normalised(view: View, tensor: gs.Tensor, axes: Iterable[int], partial: bool = False) -> list[Facts]:
    touched = set(axes)
    check_batch(view, tensor, touched, "normalises")
    if touched & set(view.seq(tensor)):
        raise refused("it normalises over padding, which nothing masks", Cause.PADDING)
    finite = view.facts(tensor).anywhere.is_finite and not partial
    padded = v.ORDINARY if finite else v.UNKNOWN
    return [facts_of(v.NUMBER, view.seq(output), padded) for output in view.node.outputs]


# [n, L] along L -> [n, L]: proved, padding comes after. In reverse, where padding is zero.
@rule("CumSum")
def _running_sum(view: View) -> Facts:
    tensor, where = view.node.inputs[0], constant(view.node.inputs[1])
    if where is None:
        raise refused("its axis is not constant", Cause.SAMPLES)
    axis, facts = int(where.reshape(-1)[0]) % view.rank(tensor), view.facts(tensor)
    check_batch(view, tensor, [axis], "sums")
    if axis in view.seq(tensor) and view.node.attrs.get("reverse", 0) and not facts.at(axis).is_zero:
        raise refused("it sums from the end of the row, where padding is", Cause.PADDING)
    real = Values(0.0, v.LARGEST) if _positive(facts.real) else v.NUMBER
    return facts_of(real, view.seq(view.node.outputs[0]), v.ORDINARY if facts.anywhere.is_finite else v.UNKNOWN)


# [n, L, H] -> [n, L, H] and one scale []: not proved, the scale is of all samples.
@rule("DynamicQuantizeLinear")
def _one_scale(view: View) -> Facts:
    raise refused("it takes one scale from all samples of a run", Cause.SAMPLES)


# GlobalMaxPool [n, H, L] -> [n, H, 1]: proved where padding is below every real value.
@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(view: View) -> Facts:
    tensor = view.node.inputs[0]
    axes = list(range(2, view.rank(tensor)))
    facts = view.facts(tensor)
    check_batch(view, tensor, axes, "pools")
    for axis in set(axes) & set(view.seq(tensor)):
        op = {"GlobalMaxPool": "ReduceMax", "GlobalLpPool": "ReduceL2"}.get(view.node.op, "ReduceMean")
        refusal = _reduction_refusal(op, facts, axis)
        if refusal:
            raise RefusedError(refusal)
    return without(facts, axes, True, v.NUMBER)


# [n, L, H] over H -> [n, L, k]: proved. Over L it sorts padding among the places.
@rule("TopK")
def _top(view: View) -> list[Facts]:
    tensor = view.node.inputs[0]
    axis = view.axis(-1)
    check_batch(view, tensor, [axis], "sorts")
    if axis in view.seq(tensor):
        raise refused("it sorts padding among the places of the sample", Cause.PADDING)
    facts = view.facts(tensor)
    return [facts, facts_of(Values(0.0, v.LARGEST), tuple(facts.padded), v.ORDINARY)]
