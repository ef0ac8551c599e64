"""How a Reshape divides its input's axes: which axis of the result holds which extents, in row-major order.

An axis is a sequence of *atoms*, outermost first: symbols, which cannot be divided, and numbers, which can. A Reshape
keeps the order of its elements, so the atoms of the input, read through all axes, are those of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import sympy

#: Atoms of one axis, outermost first.
Atoms: TypeAlias = tuple[Any, ...]


class AxisOrders:
    """Knows of products of extents in which order their factors lie.

    An expression forgets the order (batch * heads is heads * batch). One that was made in both orders cannot be
    divided again.
    """

    def __init__(self) -> None:
        self._orders: dict[sympy.Expr, set[Atoms]] = {}

    def atoms(self, extent: Any) -> Atoms:
        """The atoms of an axis; an extent that nothing is known of is one atom."""
        orders = self._orders.get(sympy.sympify(extent), set())
        return next(iter(orders)) if len(orders) == 1 else (extent,)

    def merge(self, atoms: Atoms) -> Any:
        """The extent of an axis of these atoms, which is remembered."""
        joined: list[Any] = []
        for atom in atoms:
            if joined and isinstance(atom, int) and isinstance(joined[-1], int):
                joined[-1] *= atom
            else:
                joined.append(atom)
        product = sympy.prod([sympy.sympify(atom) for atom in joined])
        if len(joined) > 1:
            self._orders.setdefault(product, set()).add(tuple(joined))
        return int(product) if product.is_Integer else product


def divide(source: Sequence[Atoms], target: Sequence[int], sizes: Mapping[Any, int]) -> list[Atoms] | None:
    """The atoms of each axis of the result of a Reshape.

    Args:
        source: the atoms of each axis of the input.
        target: the extents of the result, all known.
        sizes: the number that each symbol stands for.

    Returns:
        None where the result would divide a symbol, or where the numbers do not agree.
    """
    atoms = _without_spare_ones([atom for axis in source for atom in axis], target, sizes)
    result: list[Atoms] = []
    for remaining in target:
        taken: list[Any] = []
        while (remaining > 1 or not taken) and atoms:
            size = sizes.get(atoms[0], atoms[0])
            if remaining == 1 and size != 1:
                break
            if remaining % size == 0:
                taken.append(atoms.pop(0))
                remaining //= size
            elif isinstance(atoms[0], int) and size % remaining == 0:
                taken.append(remaining)
                atoms[0], remaining = size // remaining, 1
            else:
                return None
        if remaining != 1:
            return None
        result.append(tuple(taken) or (1,))
    if not atoms:
        return result
    if any(sizes.get(atom, atom) != 1 for atom in atoms) or not result:
        return None
    result[-1] = (*result[-1], *atoms)  # a batch of one that the target leaves out
    return result


def _without_spare_ones(atoms: Sequence[Any], target: Sequence[int], sizes: Mapping[Any, int]) -> list[Any]:
    """Leave out ones that the target has no axis for; a symbol that stands for one must go somewhere."""
    symbols_of_one = sum(not isinstance(atom, int) and sizes.get(atom) == 1 for atom in atoms)
    room = sum(extent == 1 for extent in target) - symbols_of_one
    kept = []
    for atom in atoms:
        if isinstance(atom, int) and atom == 1:
            room -= 1
            if room < 0:
                continue
        kept.append(atom)
    return kept
