"""Where a model's weights come from: a seed or a table of arrays."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class WeightSource(Protocol):
    """Gives a weight by its name."""

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The weight ``name``, float32, of this shape. A matrix is [in, out]; a table is [rows, hidden]."""


class SeededWeights:
    """Random weights that depend on the seed and the weight's name alone, not on the order of asking.

    Tables and matrices are normal(0, 0.02), the usual start of BERT training; a head's matrix is scaled to keep its
    logits of order 1; norm scales lie about 1.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw the weight ``name``."""
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= shape[0] ** -0.5 if name.startswith(("head.", "pooler.")) and len(shape) == 2 else 0.02
        if name.endswith("LayerNorm.weight"):
            values += 1.0
        return values


class StoredWeights:
    """Weights from a table in PyTorch's layout, where a linear layer's matrix is [out, in]."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self._tensors = tensors

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Look the weight ``name`` up, transposed where it is a linear layer's."""
        stored = self._tensors[name]
        value = stored.T if stored.ndim == 2 and "embeddings" not in name else stored
        if value.shape != shape:
            raise ValueError(f"weight {name!r} has shape {list(value.shape)}, expected {list(shape)}")
        return np.ascontiguousarray(value, dtype=np.float32)
