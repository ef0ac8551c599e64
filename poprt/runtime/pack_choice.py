"""Which of the waiting samples share a pack: lengths in, positions out. Pure functions."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from poprt.executable import PackingSpec
from poprt.runtime.pack_cost import PackCost

#: Tokens below which a pack is not divided among lanes: matrix products of fewer rows are not worth their start.
LEAST_TOKENS = 32
#: Samples are alike that are up to this much longer or shorter: they would share a pack of their own.
_ALIKE = 1.5
#: The cost parts no samples of which the longest is up to this much longer than the shortest: they pad little, and a
#: cost that was measured while the machine stalled must not make packs of one for ever.
_NEAR = 1.125
#: Seconds are compared up to this part of a pack's.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PackLimits:
    """What a pack may hold.

    Attributes:
        budget: tokens that it aims at; it may pass them by half a sample.
        capacity: tokens that it never passes (a sample alone in its pack may).
        max_count: samples that it never passes.
        shares: packs that share what waits, where that gives each ``LEAST_TOKENS`` or more.
        seconds: that it never passes (a sample alone may).
        memory: bytes of padded tensors that it never passes (a sample alone may).
    """

    budget: int
    capacity: int
    max_count: int
    shares: int = 1
    seconds: float = math.inf
    memory: float = math.inf


def choose_pack(
    lengths: Sequence[int], limits: PackLimits, packing: PackingSpec, cost: PackCost | None = None
) -> list[int]:
    """Choose the samples of a pack: the oldest, and those that are nearest to it in length.

    With a ``cost``, a sample is left to a later pack where it would pay for others or they for it: where it adds more
    seconds to this pack than it takes in one of samples like itself, with its share of that pack's start. A text of 8
    tokens does not ride with one of 500. Samples of nearly one length are never parted so.

    Args:
        lengths: tokens of each waiting sample, oldest sample first.
        limits: of the pack.
        packing: the executable's, which says what a pack needs in memory.
        cost: of packs; None where every run costs the same.

    Returns:
        Positions in ``lengths``; the first is 0. Packs that are chosen one after the other hold about equally many
        tokens: the rest makes no small pack of its own.
    """
    target = _share(sum(lengths), limits)
    alike = _Alike(lengths, limits.budget) if cost is not None else None
    chosen = [0]
    tokens = longest = least = lengths[0]
    for i in sorted(range(1, len(lengths)), key=lambda i: abs(lengths[i] - lengths[0])):
        length = lengths[i]
        count, total, most, least = len(chosen) + 1, tokens + length, max(longest, length), min(least, length)
        if count > limits.max_count or total > limits.capacity or tokens + length / 2 > target:
            break
        if packing.padded_bytes(count, most) > limits.memory:
            break
        if cost is not None and alike is not None:
            seconds = cost.seconds(total, count, most)
            elsewhere = cost.own(length) + cost.start * alike.share_of_start(length)
            here = seconds - cost.seconds(tokens, count - 1, longest)
            dear = most > _NEAR * least and here > elsewhere + _ROUNDING * seconds
            if dear or seconds > limits.seconds:
                break
        chosen.append(i)
        tokens, longest = total, most
    return chosen


def choose_equal(
    kinds: Sequence[Hashable],
    sizes: Sequence[int],
    limits: PackLimits,
    packing: PackingSpec,
    cost: PackCost | None = None,
) -> list[int]:
    """Choose the samples of a pack of one length: the oldest, and others of its kind, oldest first.

    Args:
        kinds: lengths of each waiting sample by segment, oldest sample first; samples of one kind are of one size.
        sizes: tokens of each.
        limits, packing, cost: as for ``choose_pack``; all that waits, of any length, is shared.

    Returns:
        Positions in ``kinds`` in ascending order; the first is 0. Packs of this length that are chosen one after the
        other are about equally large.
    """
    equal = [i for i, kind in enumerate(kinds) if kind == kinds[0]]
    size = sizes[0]
    most = min(limits.max_count, round(_share(sum(sizes), limits) / size), limits.capacity // size)
    each = packing.padded_bytes(1, size)
    if each and each * most > limits.memory:
        most = int(limits.memory // each)
    if cost is not None and cost.seconds(size * most, most, size) > limits.seconds:
        most = int((limits.seconds - cost.start) // cost.own(size)) if cost.own(size) else most
    packs = math.ceil(len(equal) / max(1, most))
    return equal[: math.ceil(len(equal) / packs)]


class _Alike:
    """Tokens of the waiting samples that are about as long as a given one."""

    def __init__(self, lengths: Sequence[int], budget: int) -> None:
        self._sorted = sorted(lengths)
        self._sums = [0, *accumulate(self._sorted)]
        self._budget = budget

    def share_of_start(self, length: int) -> float:
        """What part of a pack's start a sample bears in a pack of samples like itself: all of it where it is alone."""
        first = bisect_left(self._sorted, length / _ALIKE)
        last = bisect_right(self._sorted, length * _ALIKE)
        return length / max(length, min(self._budget, self._sums[last] - self._sums[first]))


def _share(total: int, limits: PackLimits) -> float:
    """Tokens of a pack, where packs of about the budget divide ``total`` evenly among the shares or more."""
    return total / max(math.ceil(total / limits.budget), min(limits.shares, total // LEAST_TOKENS), 1)
