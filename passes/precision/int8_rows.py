"""Rows of activations, parted: what is decided on some of them is judged on others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from passes.precision.int8_values import Floats

_EVERY = 4  # one row of so many judges
_ENOUGH = 16  # fewer rows are not parted
_MOST_JUDGED = 256


@dataclass(frozen=True)
class Rows:
    """Rows of one activation, or of several under each other.

    Attributes:
        told: what is decided on, float32 [rows, channels].
        judged: what errors are measured on; the same where there are few.
    """

    told: Floats
    judged: Floats

    @classmethod
    def parted(cls, values: Floats) -> Rows:
        """Every fourth row judges."""
        if len(values) < _ENOUGH:
            return cls(values, values)
        judges = np.arange(len(values)) % _EVERY == _EVERY - 1
        judged = values[judges]
        return cls(values[~judges], judged[:: max(1, len(judged) // _MOST_JUDGED)])
