"""An executable's weights as an engine takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.container import ALIGNMENT
from poprt.executable import Executable, WeightSpec

Array = npt.NDArray[Any]


def engine_array(executable: Executable, spec: WeightSpec) -> Array:
    """A weight in the engine's type, contiguous: as it lies in the file, or converted."""
    return np.asarray(executable.weight(spec.name), dtype=spec.engine_dtype, order="C")


def engine_arrays(executable: Executable, specs: Sequence[WeightSpec]) -> list[Array]:
    """The weights in the engine's types. Those that are converted share one buffer, which the system gets back whole:
    hundreds of arrays would leave holes between what the engine allocates meanwhile.
    """
    sizes = [math.prod(s.shape) * np.dtype(s.engine_dtype).itemsize if s.dtype != s.engine_dtype else 0 for s in specs]
    starts = np.cumsum([0, *(size + -size % ALIGNMENT for size in sizes)]).tolist()
    buffer = np.empty(starts.pop(), np.uint8)
    arrays = []
    for spec, start, size in zip(specs, starts, sizes, strict=True):
        if not size:
            arrays.append(engine_array(executable, spec))
            continue
        arrays.append(buffer[start : start + size].view(spec.engine_dtype).reshape(spec.shape))
        arrays[-1][...] = executable.weight(spec.name)
    return arrays
