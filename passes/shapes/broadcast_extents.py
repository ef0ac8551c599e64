"""What the extents that meet in a broadcast say of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy

from passes.shapes.decided import is_never_one

#: What the dimensions of a model are taken to be, one after another. Small ones, where ``Min(512, S)`` is ``S``.
_PROBES = (2, 3, 7, 64, 509)


def broadcast_extent(extents: Sequence[Any], symbols: Mapping[str, Any]) -> Any:
    """The extent that comes of ``extents``; None where that depends on which of them is 1.

    ``[n, 5]`` -> 5, and nothing is said of ``n``. ``[n, m]`` -> None.

    Args:
        extents: numbers, and names of dimensions.
        symbols: name of a dimension -> its expression.
    """
    several = [extent for extent in dict.fromkeys(extents) if extent != 1]
    if len(several) < 2:
        return several[0] if several else 1
    return next((extent for extent in several if is_never_one(symbols.get(extent, extent))), None)


def without_ones(extents: Sequence[Any], symbols: Mapping[str, Any]) -> list[Any]:
    """Those of ``extents`` that another is not broadcast to.

    ``[S - Max(0, S - 1), S]`` -> ``[S]``: where S is 7 the first is 1. ``[Min(512, S), S]`` stays as it is: at each S
    that the model can run with, both are the same number.

    Args:
        extents: numbers, and names of dimensions.
        symbols: name of a dimension -> its expression.
    """
    expressions = [
        symbols.get(extent, sympy.Symbol(extent)) if isinstance(extent, str) else extent for extent in extents
    ]
    if not any(isinstance(expression, sympy.Expr) and not expression.is_Atom for expression in expressions):
        return list(extents)
    ones = {
        index
        for values in _probe(expressions)
        if len(set(values) - {1}) == 1
        for index, value in enumerate(values)
        if value == 1
    }
    return [extent for index, extent in enumerate(extents) if index not in ones]


def _probe(expressions: Sequence[Any]) -> Iterator[list[Any]]:
    """The numbers that the expressions become, each dimension with a number of its own."""
    dimensions = sorted({s for e in expressions if isinstance(e, sympy.Expr) for s in e.free_symbols}, key=str)
    for first in _PROBES:
        numbers = {dimension: first + 2 * place for place, dimension in enumerate(dimensions)}
        yield [e.subs(numbers) if isinstance(e, sympy.Expr) else e for e in expressions]
