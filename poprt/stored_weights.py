"""Weights as they lie in an executable's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  numpy knows "bfloat16" from then on
import numpy as np
import numpy.typing as npt

from poprt.container import ALIGNMENT
from poprt.manifest import WeightSpec
from poprt.opened_file import Bytes


def place_weights(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[int, int]]:
    """Offset and length in bytes of each array in the weights member, each aligned to 64 bytes."""
    places, end = {}, 0
    for name, array in arrays.items():
        start = end + -end % ALIGNMENT
        end = start + array.nbytes
        places[name] = (start, array.nbytes)
    return places


def little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array`` as it is written: contiguous, least byte first."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view of ``array`` that nobody can write to."""
    view = array.view()
    view.flags.writeable = False
    return view


def weight_view(spec: WeightSpec, data: Bytes) -> npt.NDArray[Any]:
    """A weight in the bytes of the weights member."""
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    view: npt.NDArray[Any] = data[spec.offset : spec.offset + spec.nbytes].view(dtype).reshape(spec.shape)
    return view
