"""Comparisons that include equality, as two that every opset has."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.registry import register
from passes.rewriting import NodeRewrite, Site


class _OrEqual(NodeRewrite):
    """Replaces a >= b by (a > b) or (a == b), which is false for NaN as well.

    GreaterOrEqual of [B, S] and [S] -> Greater, Equal of [B, S] and [S] -> Or of [B, S]. Local functions are left
    alone.
    """

    what = "comparisons replaced"
    #: The comparison that leaves equality out.
    strict: ClassVar[str]

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Replace; see the class."""
        make, operands = site.builder(node), list(node.inputs)
        strict = make.add(self.strict, "strictly", operands, np.bool_)
        equal = make.add("Equal", "equal", operands, np.bool_)
        make.add("Or", "either", [strict, equal], into=site.release(node))


@register("replace_greater_or_equal")
class ReplaceGreaterOrEqual(_OrEqual):
    """Replaces GreaterOrEqual by Greater, Equal and Or: [B, S] and [S] -> [B, S]. Local functions are left alone."""

    operators = ("GreaterOrEqual",)
    strict = "Greater"


@register("replace_less_or_equal")
class ReplaceLessOrEqual(_OrEqual):
    """Replaces LessOrEqual by Less, Equal and Or: [B, S] and [S] -> [B, S]. Local functions are left alone."""

    operators = ("LessOrEqual",)
    strict = "Less"
