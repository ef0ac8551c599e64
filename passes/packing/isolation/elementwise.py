"""Rules of operators that compute each place from the same place of their operands.

[n, L] + [n, 1] -> [n, L]: what stands in a padded place is computed from what stands in the padded places of the
operands that have that axis, and from real values of those that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.operators import (
    CONTRIB,
    CONTRIB_ELEMENTWISE,
    ELEMENTWISE,
    KEEPS_VALUES,
    PARTIAL,
    Family,
    lookup,
    members,
)
from passes.packing.isolation import values as v
from passes.packing.isolation.facts import ByDistance, Facts
from passes.packing.isolation.proof import View
from passes.packing.isolation.table import rule
from passes.packing.isolation.values import Values
from passes.refusal import Cause, refused

#: Gives the result's values from the operands' and whether each operand is read at padding.
Arithmetic = Callable[[View, Sequence[Values], Sequence[bool]], Values]
_ARITHMETIC: dict[str, Arithmetic] = {}

_HALF_LARGEST = 65504.0


def _arithmetic(*ops: str) -> Callable[[Arithmetic], Arithmetic]:
    def decorate(function: Arithmetic) -> Arithmetic:
        _ARITHMETIC.update(dict.fromkeys(ops, function))
        return function

    return decorate


def broadcast(view: View, operands: Sequence[gs.Tensor], arithmetic: Arithmetic) -> Facts:
    """Facts of a result to which the operands broadcast."""
    output = view.node.outputs[0]
    operand_facts = [view.facts_by_distance(tensor) for tensor in operands]
    shifts = [view.rank(output) - view.rank(tensor) for tensor in operands]
    axes = view.seq(output)

    def result(read: Callable[[Facts, int], tuple[Values, bool]]) -> Values:
        parts = [read(facts, shift) for facts, shift in zip(operand_facts, shifts, strict=True)]
        return arithmetic(view, [values for values, _ in parts], [padding for _, padding in parts])

    padded = {axis: result(partial(_at, axis)) for axis in axes}
    corner = result(lambda facts, _: _at_corner(facts)) if len(axes) > 1 else v.UNKNOWN
    real = result(lambda facts, _: (facts.real, False))
    return Facts(real, padded, corner, _distance(view, operands, operand_facts, shifts))


def _distance(
    view: View, operands: Sequence[gs.Tensor], operand_facts: Sequence[Facts], shifts: Sequence[int]
) -> ByDistance | None:
    """The axis of the result that is read by distance, where one operand has such and the others are alike on it."""
    tables = [
        (facts.by_distance, shift) for facts, shift in zip(operand_facts, shifts, strict=True) if facts.by_distance
    ]
    if not tables:
        return None
    table, shift = tables[0]
    axis = table.axis + shift
    for tensor, facts, own in zip(operands, operand_facts, shifts, strict=True):
        if facts.by_distance is None and axis >= own and view.shape(tensor)[axis - own] != 1:
            raise refused(f"it reads the padded length from {table.table.name!r}", Cause.PADDING)
    if len(tables) > 1:
        raise refused(f"it reads the padded length from {table.table.name!r}", Cause.PADDING)
    return replace(table, axis=axis)


def _at(axis: int, facts: Facts, shift: int) -> tuple[Values, bool]:
    if axis - shift in facts.padded:
        return facts.padded[axis - shift], True
    return facts.real.as_padding_sees_it(), False


def _at_corner(facts: Facts) -> tuple[Values, bool]:
    return (facts.in_padding, True) if facts.padded else (facts.real.as_padding_sees_it(), False)


# [n, L, H] + [n, L, 1] -> [n, L, H]: padding plus padding.
@rule(*ELEMENTWISE - KEEPS_VALUES)
@rule(*CONTRIB_ELEMENTWISE, domain=CONTRIB)
def _elementwise(view: View) -> Facts:
    operands = [tensor for tensor in view.node.inputs if not tensor.is_empty()]
    return broadcast(view, operands, _ARITHMETIC.get(view.node.op, _plain))


# Cast [n, L] -> [n, L]: what stands in padding stays, as far as the type holds it.
@rule(*ELEMENTWISE & KEEPS_VALUES, "Dropout")
def _conversion(view: View) -> list[Facts]:
    facts = broadcast(view, view.node.inputs[:1], _ARITHMETIC.get(view.node.op, lambda _, read, __: read[0]))
    return [facts] * len(view.node.outputs)


def _plain(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    if _keeps(view, read[0]):
        return v.ZERO
    if not all(item.is_finite for item in read):
        return v.UNKNOWN if any(padding) else v.NUMBER
    return v.ORDINARY if any(padding) else v.NUMBER


def _keeps(view: View, first: Values) -> bool:
    if view.node.op == "Shrink":
        return first.is_zero and float(view.node.attrs.get("lambd", 0.5)) >= 0
    return first.is_zero and lookup(view.node.op, view.node.domain).keeps_zero


@_arithmetic(*PARTIAL - {"Div"})
def _partial(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    if view.node.op == "Sqrt" and not read[0].ordinary and read[0].low >= 0 and read[0].is_finite:
        return Values(read[0].low ** 0.5, read[0].high ** 0.5)
    if view.node.op == "Pow" and len(read) == 2 and read[1].is_exact and read[1].low == 2:
        return v.multiply(read[0], read[0])
    return v.UNKNOWN if any(padding) else v.NUMBER


@_arithmetic(*(op for op in ELEMENTWISE if lookup(op).bounds))
def _bounded(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    if _keeps(view, read[0]):
        return v.ZERO
    bounds = lookup(view.node.op).bounds
    assert bounds is not None
    return Values(*bounds, nan=read[0].nan)


@_arithmetic("Add", "Sum")
def _add(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    total = read[0]
    for item in read[1:]:
        total = v.add(total, item)
    return total


@_arithmetic("Mean")
def _mean(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    return v.multiply(_add(view, read, padding), v.exactly(1 / len(read)))


@_arithmetic("Sub")
def _sub(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    return v.add(read[0], v.negate(read[1]))


@_arithmetic("Neg")
def _neg(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    return v.negate(read[0])


@_arithmetic("Mul")
def _mul(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    left, right = view.node.inputs
    if left is right and read[0].is_finite and not read[0].ordinary:  # a square
        square = v.multiply(read[0], read[0])
        return Values(max(0.0, square.low), square.high)
    return v.multiply(read[0], read[1])


@_arithmetic("Div")
def _div(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    return v.divide(read[0], read[1], real_divisor=not padding[1])


@_arithmetic("Max")
def _max(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    result = read[0]
    for item in read[1:]:
        result = v.largest(result, item)
    return result


@_arithmetic("Min")
def _min(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    result = read[0]
    for item in read[1:]:
        result = v.smallest(result, item)
    return result


@_arithmetic("Clip")
def _clip(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    operands = dict(zip((i for i, t in enumerate(view.node.inputs) if not t.is_empty()), read, strict=True))
    result = operands[0]
    if 1 in operands:
        result = v.largest(result, operands[1])
    if 2 in operands:
        result = v.smallest(result, operands[2])
    attrs = view.node.attrs
    if "min" in attrs:
        result = v.largest(result, v.exactly(attrs["min"]))
    return v.smallest(result, v.exactly(attrs["max"])) if "max" in attrs else result


@_arithmetic("Relu")
def _relu(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    return v.largest(read[0], v.ZERO)


@_arithmetic("Abs")
def _abs(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    if read[0].ordinary or read[0].nan:
        return read[0] if read[0].nan else v.ORDINARY
    low, high = read[0].low, read[0].high
    return Values(0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))


@_arithmetic("Exp")
def _exp(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    item = read[0]
    if item.is_below(v.LOW_SCORE):
        return v.ZERO
    if item.nan:
        return v.UNKNOWN
    if item.ordinary:
        return v.ORDINARY
    low, high = (float(np.exp(min(bound, 88.0))) for bound in (item.low, item.high))
    return Values(low, v.LARGEST if item.high > 88 else high)


@_arithmetic("Where")
def _where(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    condition, if_true, if_false = read
    if condition.is_exact:
        return if_true if condition.low else if_false
    return v.hull([if_true, if_false])


@_arithmetic("Not")
def _not(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    return v.exactly(not read[0].low) if read[0].is_exact else v.UNIT


@_arithmetic("And")
def _and(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    if any(item.is_zero for item in read):
        return v.ZERO
    return v.ONE if all(item.is_exact for item in read) else v.UNIT


@_arithmetic("Or")
def _or(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    if any(item.is_exact and item.low for item in read):
        return v.ONE
    return v.ZERO if all(item.is_zero for item in read) else v.UNIT


@_arithmetic("Xor", "IsInf", "IsNaN")
def _truth(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    return v.UNIT


@_arithmetic(*members(Family.COMPARISON))
def _compare(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    left, right = read
    if left.nan or right.nan or left.ordinary or right.ordinary:
        return v.UNIT
    if view.node.op.startswith("Less"):
        left, right = right, left
    if view.node.op == "Equal":
        surely, never = left.is_exact and right.is_exact and left.low == right.low, _apart(left, right)
    elif view.node.op.endswith("OrEqual"):
        surely, never = left.low >= right.high, left.high < right.low
    else:
        surely, never = left.low > right.high, left.high <= right.low
    return v.ONE if surely else v.ZERO if never else v.UNIT


def _apart(left: Values, right: Values) -> bool:
    return left.high < right.low or right.high < left.low


@_arithmetic("Cast", "CastLike")
def _cast(view: View, read: Sequence[Values], padding: Sequence[bool]) -> Values:
    item, to = read[0], _target_type(view)
    if to == onnx.TensorProto.BOOL:
        never_zero = not item.ordinary and not item.nan and (item.low > 0 or item.high < 0)
        return v.ZERO if item.is_zero else v.ONE if never_zero else v.UNIT
    if to == onnx.TensorProto.FLOAT16 and not item.is_unbounded:
        return replace(item, low=_half(item.low), high=_half(item.high))
    if item.is_exact and to in _INTEGERS and abs(item.low) < 2**31:
        return v.exactly(int(item.low))
    return item


_INTEGERS = frozenset(
    getattr(onnx.TensorProto, sign + f"INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)
)  # fmt: skip


def _target_type(view: View) -> int | None:
    value: Any = view.node.attrs.get("to")
    if view.node.op == "CastLike":
        return None
    return None if value is None else int(value)


def _half(bound: float) -> float:
    if abs(bound) > _HALF_LARGEST:
        return float("inf") if bound > 0 else float("-inf")
    return bound
