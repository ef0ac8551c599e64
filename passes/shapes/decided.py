"""What a comparison of extents comes to, where it comes to the same whatever the open extents are.

An open extent may be any number from 0 on. That decides ``n == n`` and ``n == -1``, and leaves ``n == 1`` open.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import sympy

#: Operators that compare numbers, by their types.
COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
}


class Comparison(NamedTuple):
    """A comparison of two numbers or expressions of extents.

    Attributes:
        kind: a key of :data:`COMPARISONS`.
    """

    kind: str
    left: Any
    right: Any


def equal(left: Any, right: Any, extents: AbstractSet[Any] = frozenset()) -> bool | None:
    """Whether two whole numbers are equal; None where that depends on the open extents.

    Args:
        left, right: numbers, or expressions of extents.
        extents: expressions that are extents of tensors, so never below 0: a model that runs has ``n - 2`` >= 0.
    """
    first, second = _expression(left), _expression(right)
    if first is None or second is None:
        return None
    if (left in extents and second.is_negative) or (right in extents and first.is_negative):
        return False
    is_zero: bool | None = (first - second).is_zero
    return sympy.expand(first - second).is_zero if is_zero is None else is_zero


def is_never_one(extent: Any) -> bool:
    """Whether an extent is another number than 1 whatever the open extents are."""
    return not isinstance(extent, str) and equal(extent, 1) is False


def truth(value: Any) -> bool | None:
    """Whether a whole number or a boolean counts as true: whether it is not 0; None where that is open."""
    is_zero = equal(value, 0)
    return None if is_zero is None else not is_zero


def are_ordered(end: Any, bound: Any) -> bool:
    """Whether it is known which of an end and the extent of its axis is the larger one; a number is always compared."""
    first, second = sympy.sympify(end), sympy.sympify(bound)
    if not first.free_symbols or not second.free_symbols:
        return True
    smaller = first.args if isinstance(first, sympy.Min) else (first,)
    return any((second - part).is_nonnegative for part in smaller) or bool((first - second).is_nonnegative)


def _expression(value: Any) -> Any:
    """``value`` with symbols that may be 0; None for what is no whole number."""
    if isinstance(value, bool):
        return sympy.Integer(int(value))
    expression = sympy.sympify(value)
    if not isinstance(expression, sympy.Expr) or expression.is_integer is not True:
        return None
    return expression.xreplace({s: _from_zero(s) for s in expression.free_symbols if s.is_positive})


def _from_zero(symbol: sympy.Symbol) -> sympy.Symbol:
    """Inference takes an input's extent to be 1 or more; an empty input is rare, and no error."""
    return sympy.Symbol(symbol.name, integer=True, nonnegative=True)
