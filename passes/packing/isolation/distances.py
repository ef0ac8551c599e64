"""Relative positions by table: DeBERTa multiplies by a table of 2 L distances, and picks entry i - j + L for i, j.

Both the table and the index move with the length L of the longest sample; what is picked does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.packing.isolation.facts import ByDistance
from passes.packing.isolation.proof import View
from passes.packing.tokens.axes import SEQ
from passes.refusal import Cause, refused

_LENGTHS, _LONGEST, _SAMPLES = (3, 8), 20, 3


def check_distances(view: View, read: ByDistance, indices: gs.Tensor) -> None:
    """Raise unless a pair of places picks the same entry of the table in a run of any length and any number of samples.

    Computed for a few lengths, as tables of positions are.
    """
    unlike = refused(f"it reads the padded length from {read.table.name!r}", Cause.PADDING)
    if not view.is_positional(indices):
        raise unlike
    shape = view.shape(indices)
    seq = tuple(axis for axis, extent in enumerate(shape) if extent == SEQ)
    whole = _picked(view, read, indices, _LONGEST, 1)
    for length in _LENGTHS:
        places = tuple(slice(length) if axis in seq else slice(None) for axis in range(len(shape)))
        if not np.array_equal(_picked(view, read, indices, length, 1), whole[places]):
            raise unlike
    several = _picked(view, read, indices, _LENGTHS[0], _SAMPLES)
    alone = _picked(view, read, indices, _LENGTHS[0], 1)
    if several.shape != alone.shape:
        several = several.reshape(_SAMPLES, -1)
        alone = np.broadcast_to(alone.reshape(1, -1), several.shape)
    if not np.array_equal(several, alone):
        raise unlike


def _picked(view: View, read: ByDistance, indices: gs.Tensor, length: int, samples: int) -> np.ndarray[Any, Any]:
    """The entries of the table, by index: the shape of the indices, then that of an entry."""
    table = np.moveaxis(view.positions(read.table, length, samples), read.table_axis, 0)
    entries: np.ndarray[Any, Any] = table[view.positions(indices, length, samples)]
    return entries
