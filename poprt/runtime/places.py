"""Where samples go in a pack: lengths in, places out. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from poprt.runtime.config import PackAlgorithm

#: Tokens below which a pack is not divided among lanes: matrix products of fewer rows are not worth their start.
LEAST_TOKENS = 32


@dataclass(frozen=True)
class Place:
    """Where a sample starts, as row and column, and how many tokens it has."""

    row: int
    start: int
    length: int


def place_across_rows(lengths: Sequence[int], rows: int, columns: int, max_count: int) -> list[Place]:
    """Lay samples end to end over ``rows`` x ``columns`` tokens; a sample may cross rows.

    Returns:
        The places of the leading samples that fit, at most ``max_count``.
    """
    places: list[Place] = []
    used = 0
    for length in lengths[:max_count]:
        if used + length > rows * columns:
            break
        places.append(Place(used // columns, used % columns, length))
        used += length
    return places


def place_within_rows(
    lengths: Sequence[int],
    rows: int,
    columns: int,
    max_count: int,
    algorithm: PackAlgorithm = PackAlgorithm.next_fit,
    delimiter: int = 0,
) -> list[Place | None]:
    """Give each sample room in one row, with ``delimiter`` zeros between two samples of a row.

    ``next_fit`` keeps the order of the samples in the token stream, so it stops at the first that does not fit.
    ``first_fit`` goes on and places later, shorter samples.

    Returns:
        One entry a sample: its place, or None where it has to wait for another pack.
    """
    used = [0] * rows
    places: list[Place | None] = [None] * len(lengths)
    count = row = 0
    for i, length in enumerate(lengths):
        if count == max_count:
            break
        first = row if algorithm is PackAlgorithm.next_fit else 0
        start_of = (r for r in range(first, rows) if _start(used[r], delimiter) + length <= columns)
        free_row = next(start_of, None)
        if free_row is None:
            if algorithm is PackAlgorithm.next_fit:
                break
            continue
        row = free_row
        places[i] = Place(row, _start(used[row], delimiter), length)
        used[row] = _start(used[row], delimiter) + length
        count += 1
    return places


def _start(used: int, delimiter: int) -> int:
    return used + delimiter if used else 0


def stream_distances(places: Sequence[Place], columns: int) -> list[int]:
    """Return, for samples in stream order, the distance from each start to the next start of its row.

    The last sample of a row runs to the row's end. These are the lengths that a final Unpack reads when samples share
    rows, because it takes the rows as one stream and has to step over delimiters and unused tails.
    """
    following = [*places[1:], None]
    return [
        (nxt.start if nxt is not None and nxt.row == place.row else columns) - place.start
        for place, nxt in zip(places, following, strict=True)
    ]


def choose_pack(lengths: Sequence[int], budget: int, capacity: int, max_count: int, parts: int) -> list[int]:
    """Choose the samples of a pack: the oldest, and those that are nearest to it in length.

    Args:
        lengths: tokens of each waiting sample, oldest sample first.
        budget: tokens that a pack aims at; a pack may pass it by half a sample.
        capacity: tokens that a pack never passes (a sample alone in its pack may).
        max_count: samples that a pack never passes.
        parts: packs that share the samples, where that gives each ``LEAST_TOKENS`` or more.

    Returns:
        Positions in ``lengths``; the first is 0. Packs that are chosen one after the other hold about equally many
        tokens: the rest makes no small pack of its own.
    """
    target = _share(sum(lengths), budget, parts)
    chosen = [0]
    tokens = lengths[0]
    for i in sorted(range(1, len(lengths)), key=lambda i: abs(lengths[i] - lengths[0])):
        length = lengths[i]
        if len(chosen) == max_count or tokens + length > capacity or tokens + length / 2 > target:
            break
        chosen.append(i)
        tokens += length
    return chosen


def choose_equal(
    kinds: Sequence[Hashable], sizes: Sequence[int], budget: int, capacity: int, max_count: int, parts: int
) -> list[int]:
    """Choose the samples of a pack of one length: the oldest, and others of its kind, oldest first.

    Args:
        kinds: lengths of each waiting sample by segment, oldest sample first; samples of one kind are of one size.
        sizes: tokens of each.
        budget, capacity, max_count, parts: as for ``choose_pack``; all that waits, of any length, is shared.

    Returns:
        Positions in ``kinds`` in ascending order; the first is 0. Packs of this length that are chosen one after the
        other are about equally large.
    """
    equal = [i for i, kind in enumerate(kinds) if kind == kinds[0]]
    share = _share(sum(sizes), budget, parts)
    most = max(1, min(max_count, round(share / sizes[0]), capacity // sizes[0]))
    packs = math.ceil(len(equal) / most)
    return equal[: math.ceil(len(equal) / packs)]


def _share(total: int, budget: int, parts: int) -> float:
    """Tokens of a pack, where packs of about ``budget`` tokens divide ``total`` evenly among ``parts`` or more."""
    return total / max(math.ceil(total / budget), min(parts, total // LEAST_TOKENS), 1)
