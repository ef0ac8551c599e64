"""What a declared extent says: a number, a name that other tensors may share, or nothing."""

from __future__ import annotations

import re

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
