"""Bounds of Clip that are left out, as the numbers that they stand for."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.fusion.attention_ops import input_at
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import NodeRewrite, Site

_BOUNDS_ARE_INPUTS = 11


@register("replace_clip_empty_inputs")
class ReplaceClipEmptyInputs(NodeRewrite):
    """Gives Clip the bounds that it leaves out: the lowest and the largest finite number of its type.

    Clip of [B, S], "", 6 -> Clip of [B, S], -3.4e38, 6. Leaves alone, with a reason: a Clip that has both, one of a
    type that is not known, and one below opset 11, whose bounds are attributes. Local functions are left alone.
    """

    operators = ("Clip",)
    what = "bounds written"
    typed = True

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Write the bounds; see the class."""
        data, dtype = node.inputs[0], node.inputs[0].dtype
        if site.opset < _BOUNDS_ARE_INPUTS:
            raise refused(f"below opset {_BOUNDS_ARE_INPUTS} its bounds are attributes; the model has {site.opset}")
        if input_at(node, 1) is not None and input_at(node, 2) is not None:
            raise refused("it has both bounds")
        if dtype is None or isinstance(dtype, int) or np.dtype(dtype).kind not in "fiu":
            raise refused(f"the type of {data.name!r} is not known, or has no bounds")
        limits = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
        make = site.builder(node)
        lower = input_at(node, 1) or make.constant("lowest", limits.min, dtype)
        upper = input_at(node, 2) or make.constant("largest", limits.max, dtype)
        make.add("Clip", "clipped", [data, lower, upper], into=site.release(node))
