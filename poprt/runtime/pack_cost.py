"""What a pack costs: seconds as a function of its samples, fitted to a few packs that were timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Seconds a pair for each second a token, where no pack was timed that tells: about what encoders of 384 to 768 take.
_PAIR_OF_TOKEN = 1 / 2000


@dataclass(frozen=True)
class PackCost:
    """Seconds of a run: ``start + token * tokens + cell * samples * longest + pair * samples * longest²``.

    The packed side computes tokens. The unpacked side pads each sample to the longest of the pack: it copies places
    (cells), and attention compares pairs of them.

    Attributes:
        start, token, cell, pair: seconds; 0 or more.
    """

    start: float = 0.0
    token: float = 0.0
    cell: float = 0.0
    pair: float = 0.0

    def seconds(self, tokens: int, samples: int, longest: int) -> float:
        """Seconds of a run of ``samples`` samples with ``tokens`` tokens in all, the longest of ``longest``."""
        padded = samples * longest
        return self.start + self.token * tokens + padded * (self.cell + self.pair * longest)

    def own(self, length: int) -> float:
        """Seconds that a sample adds to a pack of samples as long as itself."""
        return length * (self.token + self.cell + self.pair * length)


def fit_cost(packs: Sequence[Sequence[int]], seconds: Sequence[float]) -> PackCost:
    """The cost that comes nearest to what was timed, by least squares of the relative errors.

    A part that would be negative is left out: no work takes less than no time, and noise does not make it so. Of fewer
    packs than parts the last parts cannot be told: places of padding cost nothing then, and pairs a share of a token.

    Args:
        packs: lengths of the samples of each pack, those with few pairs first.
        seconds: of each; above 0.
    """
    rows = np.array([[1, sum(p), len(p) * max(p), len(p) * max(p) ** 2] for p in packs], float)
    weighted = rows / np.array(seconds)[:, None]
    kept = list(range(min(4, len(packs))))
    while kept:
        parts, *_ = np.linalg.lstsq(weighted[:, kept], np.ones(len(packs)), rcond=None)
        if parts.min() >= 0:
            break
        kept.pop(int(parts.argmin()))
    values = dict(zip(kept, parts.tolist(), strict=True)) if kept else {}
    if len(packs) < 4:
        values[3] = values.get(1, 0.0) * _PAIR_OF_TOKEN
    return PackCost(*(values.get(part, 0.0) for part in range(4)))
