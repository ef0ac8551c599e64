"""All rules together."""

from __future__ import annotations

from passes.packing.isolation import elementwise, fused, movement, quantised, reductions, windows
from passes.packing.isolation.table import RULES

__all__ = ["RULES", "elementwise", "fused", "movement", "quantised", "reductions", "windows"]
