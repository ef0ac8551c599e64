"""Weights rounded with error feedback: what one row's rounding changes in a product, the next rows make up for.

Rows of a weight meet channels of an activation that move together, so the error of one can be taken back by others.
The rows are rounded one after the other, each shifted by what those before it left over. This is the method of GPTQ
(Frantar et al. 2022, arXiv:2210.17323), without its inverse: with the channels' second moments ``H = L L^T`` the error
of a product is ``|L^T (W - Q)|``, whose rows, from the last to the first, are made small one by one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passes.precision.int8_values import Floats

#: Added to each channel's second moment, in parts of their average: sample rows do not tell what others will be.
_DAMPING = 1.0
_BLOCK = 64  # rows of a weight between which errors are carried on by one product


def moments(rows: Floats) -> NDArray[np.float64]:
    """``L`` of the second moments of activations, float32 [rows, channels]; float64 [channels, channels].

    It takes a third of channels^3 multiplications: 1 s for 4096 channels.
    """
    second = (rows.T @ rows).astype(np.float64)
    diagonal = np.diagonal(second)
    np.fill_diagonal(second, diagonal + max(_DAMPING * float(diagonal.mean()), 1e-30))
    return np.asarray(np.linalg.cholesky(second), np.float64)


def round_with_feedback(matrix: Floats, scale: Floats, lower: NDArray[np.float64], limit: int) -> NDArray[np.int8]:
    """Levels for a weight.

    Args:
        matrix: float32 [rows, columns].
        scale: the steps of the columns, float32 [1, columns].
        lower: of :func:`moments`, for the rows' channels.
        limit: the largest magnitude of a level.

    Returns:
        int8 [rows, columns].
    """
    errors, levels = np.zeros(matrix.shape), np.zeros(matrix.shape, np.int8)
    last = (len(matrix) - 1) // _BLOCK * _BLOCK
    for start in range(last, -1, -_BLOCK):
        stop = min(start + _BLOCK, len(matrix))
        carried = lower[stop:, start:stop].T @ errors[stop:]
        for row in range(stop - 1, start - 1, -1):
            inside = lower[row + 1 : stop, row] @ errors[row + 1 : stop]
            shifted = matrix[row] + (carried[row - start] + inside) / lower[row, row]
            levels[row] = np.clip(np.rint(shifted / scale[0]), -limit, limit)
            errors[row] = matrix[row] - levels[row] * scale[0]
    return levels
