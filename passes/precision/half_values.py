"""float32 values as float16, without infinities or zeros that were not there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

#: What finite values beyond float16 become. Mask fills are added to scores; 65504 would leave no room for that.
LARGEST_FILL = np.float32(6e4)
#: float16's smallest positive number (a subnormal). A scalar below it is an epsilon and must not become 0.
SMALLEST = np.float32(2.0**-24)

#: The largest finite float16.
LARGEST_HALF = np.float32(np.finfo(np.float16).max)
_NAMES_LOGGED = 5

logger = logging.getLogger("poprt")


@dataclass
class HalfValues:
    """Converts arrays and remembers what did not fit.

    Attributes:
        clamped: tensor name -> how many of its finite values were beyond float16.
        fills: names of masks' fills, of which any large number is as good.
    """

    clamped: dict[str, int] = field(default_factory=dict)
    fills: set[str] = field(default_factory=set)

    def constant(self, tensor: gs.Constant) -> np.ndarray[Any, Any]:
        """The values of a float32 constant as float16."""
        return self.convert(tensor.name, read_values(tensor))

    def convert(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """``values`` (float32) as float16, rounded to nearest.

        Finite values beyond float16 become ±60000 and are counted; a single number above 60000 does too, being
        a mask's fill. Infinities and NaN stay. A single number that would round to 0 becomes the smallest float16.
        """
        scalar = values.size == 1
        if values.size == 0 or (not scalar and values.min() >= -LARGEST_HALF and values.max() <= LARGEST_HALF):
            return values.astype(np.float16)
        finite = np.isfinite(values)
        limit = LARGEST_FILL if scalar else LARGEST_HALF
        beyond = finite & (np.abs(values) > limit)
        count = int(np.count_nonzero(finite & (np.abs(values) > LARGEST_HALF)))
        if count:
            self.clamped[name] = count
        safe = np.where(beyond, np.copysign(LARGEST_FILL, values), values)
        if scalar:
            tiny = (safe != 0) & (np.abs(safe) < SMALLEST)
            safe = np.where(tiny, np.copysign(SMALLEST, safe), safe)
        return safe.astype(np.float16).reshape(values.shape)

    def report(self) -> None:
        """Log once how many values other than fills were clamped, and where most of them are."""
        changed = {name: count for name, count in self.clamped.items() if name not in self.fills}
        if not changed:
            return
        worst = sorted(changed.items(), key=lambda item: (-item[1], item[0]))[:_NAMES_LOGGED]
        logger.warning(
            "%d finite values beyond float16 in %d tensors became +-%d, most of them in %s",
            sum(changed.values()),
            len(changed),
            int(LARGEST_FILL),
            ", ".join(f"{name} ({count})" for name, count in worst),
        )


def read_values(tensor: gs.Constant) -> np.ndarray[Any, Any]:
    """The constant's values, without the second copy that reading them through the tensor keeps."""
    source = tensor._values
    if isinstance(source, LazyValues) and not isinstance(source, SparseValues):
        return onnx.numpy_helper.to_array(source.tensor)
    values: np.ndarray[Any, Any] = tensor.values
    return values


def float_constant(tensor: gs.Tensor) -> np.ndarray[Any, Any] | None:
    """The numbers of a float32 initializer, or of what Constant and ConstantOfShape make; None for anything else."""
    if isinstance(tensor, gs.Constant):
        return read_values(tensor)
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op not in ("Constant", "ConstantOfShape"):
        return None
    value = maker.attrs.get("value", maker.attrs.get("value_float", maker.attrs.get("value_floats")))
    if value is None or isinstance(value, gs.Node.AttributeRef):
        return None
    return np.asarray(value.values if isinstance(value, gs.Constant) else value, np.float32)
