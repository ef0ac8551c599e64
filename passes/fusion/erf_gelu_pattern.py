"""GELU in its erf form, however an exporter spelled it, as one node."""

from __future__ import annotations

import math

from passes.fusion.gelu import GeluFusion
from passes.registry import register
from passes.rewriting import Array


@register("erf_gelu_pattern")
class ErfGeluPattern(GeluFusion):
    """Replaces x * (1 + erf(x / sqrt(2))) / 2 by Gelu; see :class:`GeluFusion`.

    Div, Erf, Add, Mul, Mul of [B, S, H] -> Gelu of [B, S, H].
    """

    operators = ("Erf",)
    formula = "x * (1 + erf(x / sqrt(2))) / 2"

    def argument(self, x: Array) -> Array:
        """What Erf reads."""
        return x / math.sqrt(2)
