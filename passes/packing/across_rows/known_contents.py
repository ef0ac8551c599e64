"""Shape tensors whose contents are known, built anew from extents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.extents import Extents


def rebuilt(
    tensor: gs.Tensor, axes: AxisMap, extents: Extents, read: Callable[[Any], Any] = lambda extent: extent
) -> gs.Tensor | None:
    """What a shape tensor holds, built anew; None where it is no shape tensor or holds something else.

    Args:
        tensor: any tensor of the graph.
        axes: what is known of it.
        extents: builds it.
        read: what each extent is for ``extents``; None where it does not follow from batch and sequence.
    """
    contents = axes.shapes.contents.get(tensor.name)
    if contents is None or not tensor.inputs or axes.shapes.dtypes.get(tensor.name) != onnx.TensorProto.INT64:
        return None
    shape = axes.shape(tensor)
    try:
        values = [read(value) for value in (contents if isinstance(contents, (list, tuple)) else [contents])]
        if any(value is None for value in values):
            return None
        if shape is not None and len(shape) == 1 and shape[0] == len(values):
            return extents.known_vector(values)
        if shape == () and len(values) == 1:
            return extents.known_scalar(values[0])
    except (TypeError, sympy.SympifyError):
        return None  # truth values and the like
    return None
