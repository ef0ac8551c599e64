"""When the requests of an open loop arrive."""

from __future__ import annotations

import numpy as np


def poisson_arrivals(rate: float, count: int, seed: int) -> list[float]:
    """When each of ``count`` requests arrives, in seconds from the start."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    # A few gaps scatter widely in their sum: bring them to the rate that is asked for.
    return [float(at) for at in np.cumsum(gaps) * (count / rate / gaps.sum())]
