"""GELU in its tanh form, however an exporter spelled it, as one node."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from passes.fusion.gelu import GeluFusion
from passes.registry import register
from passes.rewriting import Array


@register("gelu_pattern")
class GeluPattern(GeluFusion):
    """Replaces x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2 by one node; see :class:`GeluFusion`.

    Pow, Mul, Add, Mul, Tanh, Add, Mul, Mul of [B, S, H] -> Gelu (``approximate`` is tanh) of [B, S, H]; below opset 20
    FastGelu of com.microsoft.
    """

    operators = ("Tanh",)
    formula = "x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2"
    contrib = "FastGelu"
    contrib_takes_scalars = False
    attributes: ClassVar[dict[str, Any]] = {"approximate": "tanh"}

    def argument(self, x: Array) -> Array:
        """What Tanh reads."""
        return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
