"""The shape that Resize gives, as far as its scales or sizes are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy


def resized_extents(
    shape: Sequence[Any], attributes: Mapping[str, Any], roi: Any, scales: Any, sizes: Any
) -> list[Any] | None:
    """[B, C, H, W] by scales [1, 1, 2, 2] -> [B, C, 2 * H, 2 * W]; None where that is not known.

    onnxruntime's rule takes the axes to be the first ones where the attribute ``axes`` names others, and simplifies
    each extent, which takes minutes where many rounded divisions went before.

    Args:
        shape: extents of the input, numbers or expressions.
        attributes: of the node.
        roi, scales, sizes: the contents of its inputs; None where they are not known or not given.
    """
    axes = [axis % len(shape) for axis in attributes.get("axes", range(len(shape)))]
    extents = list(shape)
    if sizes is not None and len(sizes) == len(axes):
        if attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
            return None
        for axis, size in zip(axes, sizes, strict=True):
            extents[axis] = size
        return extents
    if scales is None or len(scales) != len(axes):
        return None
    cropped = attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    if cropped and (roi is None or len(roi) != 2 * len(axes)):
        return None
    for place, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        part = roi[place + len(axes)] - roi[place] if cropped else 1
        extents[axis] = _scaled(shape[axis], float(scale) * float(part))
    return extents


def _scaled(extent: Any, scale: float) -> Any:
    """Whole scales need no rounding."""
    return extent * int(scale) if scale.is_integer() else sympy.floor(extent * scale)
