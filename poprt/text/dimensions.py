"""Embeddings that may be cut short: models trained for it (Matryoshka) declare the sizes at which they still serve."""

from __future__ import annotations

import numpy as np

from poprt.errors import InputError
from poprt.text.facts import TextFacts
from poprt.text.scores import Floats

_NAMED = 12  # sizes that a message lists
_SMALLEST_LENGTH = np.float32(1e-12)


def check_dimensions(facts: TextFacts, dimensions: int | None) -> int:
    """The size of an embedding; None is the whole one.

    Raises:
        InputError: the model declares no such size.
    """
    if dimensions is None or (type(dimensions) is int and dimensions == facts.dimension):
        return facts.dimension
    if type(dimensions) is not int or dimensions not in facts.dimensions:
        raise InputError(f"dimensions is {dimensions!r}, {_choices(facts)}")
    return dimensions


def shortened(vectors: Floats, dimensions: int, facts: TextFacts) -> Floats:
    """The first values of each vector, at length 1 again where the whole ones have it.

    That is what sentence-transformers gives with ``truncate_dim`` and, for such a model, ``normalize_embeddings=True``.

    Args:
        vectors: float32 [n, dimension].
        dimensions: what :func:`check_dimensions` gave.

    Returns:
        float32 [n, dimensions].
    """
    if dimensions == facts.dimension:
        return vectors
    cut = np.ascontiguousarray(vectors[:, :dimensions])
    return of_length_one(cut) if facts.normalised else cut


def of_length_one(vectors: Floats) -> Floats:
    """Vectors float32 [n, dimension] at length 1; those without a direction stay as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.maximum(lengths, _SMALLEST_LENGTH)
    return unit


def _choices(facts: TextFacts) -> str:
    if not facts.dimensions:
        return f"the model declares no other size than {facts.dimension}"
    names = [*map(str, facts.dimensions[:_NAMED]), *(["..."] if len(facts.dimensions) > _NAMED else [])]
    return f"expected one of {', '.join(names)} or {facts.dimension}"
