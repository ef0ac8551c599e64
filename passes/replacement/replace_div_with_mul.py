"""Division by a constant, as multiplication."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.node_values import constant
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import NodeRewrite, Site


@register("replace_div_with_mul")
class ReplaceDivWithMul(NodeRewrite):
    """Replaces Div by a constant with Mul by its reciprocal.

    Div of [B, S, H] by [H] -> Mul of [B, S, H] by [H]. Results may differ by a rounding. Leaves alone, with a reason:
    divisors that are computed or integers, and those whose reciprocal is infinite or loses its digits. Local functions
    are left alone.
    """

    operators = ("Div",)
    what = "divisions replaced"

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Replace; see the class."""
        divisor = constant(node.inputs[1])
        if divisor is None:
            raise refused(f"its divisor {node.inputs[1].name!r} is computed")
        if divisor.dtype.kind != "f":
            raise refused(f"it divides by {divisor.dtype}: a whole number has no reciprocal")
        with np.errstate(all="ignore"):
            reciprocal = np.asarray(1 / divisor, divisor.dtype)
        if not np.isfinite(reciprocal).all() or (np.abs(reciprocal) < np.finfo(divisor.dtype).tiny).any():
            raise refused(f"the reciprocal of its divisor {node.inputs[1].name!r} is no ordinary number")
        make, dividend = site.builder(node), node.inputs[0]
        factor = make.constant("reciprocal", reciprocal, divisor.dtype)
        make.add("Mul", "scaled", [dividend, factor], into=site.release(node))
