"""Where samples go in a pack: lengths in, places out. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poprt.runtime.config import PackAlgorithm

#: Tokens of a part of a large pack, about: enough to keep a core busy.
PART_TOKENS = 512


@dataclass(frozen=True)
class Place:
    """Where a sample starts, as row and column, and how many tokens it has."""

    row: int
    start: int
    length: int


def rows_of_a_part(columns: int) -> int:
    """Rows of ``columns`` tokens that a part of a large pack has: 2 rows of 256."""
    return max(1, round(PART_TOKENS / columns))


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
