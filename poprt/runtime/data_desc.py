"""What a runner says of one input or output."""

from __future__ import annotations

from typing import Any

import numpy as np

from poprt.executable import TensorSpec


class DataDesc:
    """Name, shape and type of an input or output, as the caller sees it.

    Attributes:
        name: the tensor's name.
        any_rank: whether the model does not say the rank; every shape will do then.
        popef_contains_tensor_data: whether the executable holds the tensor's value (a weight does, an input does not).
    """

    def __init__(self, spec: TensorSpec, *, contains_data: bool = False) -> None:
        self.name = spec.name
        self.any_rank = spec.any_rank
        self.popef_contains_tensor_data = contains_data
        self._shape = spec.shape
        self._dtype = np.dtype(spec.dtype)

    @property
    def shape(self) -> list[int] | None:
        """The declared extents, 0 where one is open; None where the model does not say the rank.

        A fresh list each time, for callers that change it.
        """
        return None if self.any_rank else list(self._shape)

    def numpy_data_type(self) -> np.dtype[Any]:
        """Return the declared type as a numpy dtype."""
        return self._dtype

    def __repr__(self) -> str:
        return f"DataDesc(name={self.name!r}, shape={self.shape}, dtype={self._dtype.name})"
