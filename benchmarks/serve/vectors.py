"""Whether embeddings are those of the reference."""

from __future__ import annotations

import numpy as np

from benchmarks.contenders import Array
from benchmarks.rounds import WrongNumbersError


def cosines(vectors: Array, reference: Array) -> Array:
    """The cosine of each vector [n, d] to the one of the reference [n, d]: float64 [n].

    Raises:
        WrongNumbersError: their shapes differ.
    """
    if vectors.shape != reference.shape:
        raise WrongNumbersError(f"embeddings have shape {vectors.shape}, expected {reference.shape}")
    left, right = (each.astype(np.float64) for each in (vectors, reference))
    products: Array = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return products


def check_cosine(name: str, vectors: Array, reference: Array, least: float) -> float:
    """The least cosine of a vector to the reference's.

    Raises:
        WrongNumbersError: it is below ``least``, or no number.
    """
    cosine = float(cosines(vectors, reference).min())
    if not cosine >= least:
        raise WrongNumbersError(f"{name}: wrong vectors, cosine {cosine:.6f} to the reference, allowed {least}")
    return cosine
