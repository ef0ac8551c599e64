"""What is known of a tensor of the unpacked side: its values in real places and in padded ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import onnx_graphsurgeon as gs

from passes.packing.isolation.values import NUMBER, UNKNOWN, Values, hull


@dataclass(frozen=True)
class ByDistance:
    """An axis whose places are entries of a table of distances that lies elsewhere in a longer run.

    Place k along ``axis`` belongs to entry k of ``table`` (a positional tensor) along ``table_axis``. What an entry
    stands for depends on the length; what is picked from it by an index that depends on the length as well need not.
    """

    axis: int
    table: gs.Tensor
    table_axis: int


@dataclass(frozen=True)
class Facts:
    """Values of a tensor by place.

    A *sequence axis* is one whose extent grows with the length of the longest sample. Its first places belong to the
    sample, as many as in a run of that sample alone; the others are padding.

    Attributes:
        real: where every sequence axis is at a place of the sample.
        padded: sequence axis -> where that axis is at padding, and every other at a place of the sample.
        corner: where two or more are at padding.
        by_distance: an axis that is read by distance; only rules that ask for it may see such a tensor.
    """

    real: Values = NUMBER
    padded: Mapping[int, Values] = field(default_factory=dict)
    corner: Values = UNKNOWN
    by_distance: ByDistance | None = None

    def at(self, axis: int) -> Values:
        """Where ``axis`` is at padding."""
        return self.padded.get(axis, UNKNOWN)

    @property
    def anywhere(self) -> Values:
        """Whatever stands in any place."""
        corner = [self.corner] if len(self.padded) > 1 else []
        return hull([self.real, *self.padded.values(), *corner])

    @property
    def in_padding(self) -> Values:
        """Whatever stands in a padded place; the real values where there is no padding."""
        corner = [self.corner] if len(self.padded) > 1 else []
        return hull([*self.padded.values(), *corner] or [self.real])


def facts_of(real: Values, axes: tuple[int, ...], padded: Values) -> Facts:
    """The same values in every padded place."""
    return Facts(real, dict.fromkeys(axes, padded), padded)


def moved(facts: Facts, where: Callable[[int], int | None]) -> Facts:
    """Facts of a tensor whose axes went elsewhere; ``where`` gives the new place of an old axis, None if it is gone."""
    padded = {target: values for axis, values in facts.padded.items() if (target := where(axis)) is not None}
    table = facts.by_distance
    target = None if table is None else where(table.axis)
    distance = None if table is None or target is None else replace(table, axis=target)
    return Facts(facts.real, padded, facts.corner, distance)
