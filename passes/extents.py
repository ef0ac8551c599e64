"""What a declared extent says: a number, a name that other tensors may share, or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx

#: What exporters write for an extent that is open and has no name. Two of these are never the same dimension.
_UNNAMED = re.compile(r"\s*(\?|-\d+)?\s*")


def open_unnamed(extent: int | str | None) -> int | str | None:
    """``extent``, or None where it is only a mark for an open one: a negative number, ``?``, or an empty name."""
    if isinstance(extent, str):
        return None if _UNNAMED.fullmatch(extent) else extent
    return None if extent is None or extent < 0 else extent


def declared_extent(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """What ``dim`` says: a number, a name, or None where it is open and unnamed."""
    return open_unnamed(dim.dim_value if dim.HasField("dim_value") else dim.dim_param)


def declare_ranks(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs that declare no rank that of their entry in ``shapes``, in place; the extents stay open.

    Passes that look for axes run before the shapes are fixed, and an input without a rank has none.
    """
    for value in model.graph.input:
        declared = value.type.tensor_type
        if value.name in shapes and value.type.HasField("tensor_type") and not declared.HasField("shape"):
            declared.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in shapes[value.name])
