"""What a pack costs: seconds as a function of its samples, fitted to a few packs that were timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

#: Seconds a pair for each second a token, where no pack was timed that tells: about what encoders of 384 to 768 take.
_PAIR_OF_TOKEN = 1 / 2000


@dataclass(frozen=True)
class PackCost:
    """Seconds of a run: ``start + token * tokens + cell * samples * longest + pair * samples * longest²``.

    The packed side computes tokens. The unpacked side pads each sample to the longest of the pack: it copies places
    (cells), and attention compares pairs of them. In a full pack, of samples of one length, some executables copy
    nothing and compare faster (``PackingSpec.equal_lengths_cheaper``): ``start + token * tokens + full_pair * samples *
    longest²``.

    Attributes:
        start, token, cell, pair: seconds; 0 or more.
        full_pair: seconds; None where full packs cost what others do.
    """

    start: float = 0.0
    token: float = 0.0
    cell: float = 0.0
    pair: float = 0.0
    full_pair: float | None = None

    def seconds(self, tokens: int, samples: int, longest: int, full: bool = False) -> float:
        """Seconds of a run of ``samples`` samples with ``tokens`` tokens in all, the longest of ``longest``.

        Args:
            full: whether all samples are as long as the longest.
        """
        padded = samples * longest
        if full and self.full_pair is not None:
            return self.start + self.token * tokens + padded * self.full_pair * longest
        return self.start + self.token * tokens + padded * (self.cell + self.pair * longest)

    def own(self, length: int, full: bool = False) -> float:
        """Seconds that a sample adds to a pack of samples about as long as itself; ``full``: just as long."""
        return self.seconds(length, 1, length, full) - self.start


def fit_cost(packs: Sequence[Sequence[int]], seconds: Sequence[float], full_packs: bool = False) -> PackCost:
    """The cost that comes nearest to what was timed, by least squares of the relative errors.

    A part that would be negative is left out: no work takes less than no time, and noise does not make it so. Of fewer
    packs than parts the last parts cannot be told: places of padding cost nothing then, and pairs a share of a token.

    Args:
        packs: lengths of the samples of each pack, those with few pairs first.
        seconds: of each; above 0.
        full_packs: whether full packs have a cost of their own.
    """
    rows = np.array([_amounts(pack, full_packs) for pack in packs], float)
    weighted = rows / np.array(seconds)[:, None]
    kept = list(range(min(rows.shape[1], len(packs))))
    while kept:
        parts, *_ = np.linalg.lstsq(weighted[:, kept], np.ones(len(packs)), rcond=None)
        if parts.min() >= 0:
            break
        kept.pop(int(parts.argmin()))
    values = dict(zip(kept, parts.tolist(), strict=True)) if kept else {}
    if len(packs) < rows.shape[1]:
        values[3] = values[4] = values.get(1, 0.0) * _PAIR_OF_TOKEN
    cost = PackCost(*(values.get(part, 0.0) for part in range(4)))
    # Noise may make full packs the dearer ones, which they never are.
    return replace(cost, full_pair=min(values.get(4, 0.0), cost.pair)) if full_packs else cost


def _amounts(pack: Sequence[int], full_packs: bool) -> tuple[int, ...]:
    """How much of each part of the cost a pack has."""
    cells = len(pack) * max(pack)
    pairs = cells * max(pack)
    if not full_packs:
        return 1, sum(pack), cells, pairs
    return (1, sum(pack), 0, 0, pairs) if len(set(pack)) == 1 else (1, sum(pack), cells, pairs, 0)
