"""What the longest sequence decides: Min(512, seq) is seq where no sequence is longer than 512.

A table of positions is cut to the length of the sequence, and inference only knows that the rows left are the smaller
of both. Whoever packs says how long a sequence gets, and with that the extent is as plain as any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy

from passes.packing.tokens.axes import SEQ
from passes.shapes.symbolic import SymbolicShapes

_BOUNDS = (sympy.Min, sympy.Max)


@dataclass(frozen=True)
class LengthBound:
    """The longest sequence that the packed model sees.

    Attributes:
        longest: its tokens.
    """

    longest: int

    def decide(self, extent: Any) -> Any:
        """``extent`` without the Min and Max that the bound decides; what is no expression stays as it is.

        Min(512, seq) -> seq, Max(seq, 1) -> seq, Min(seq, 1) -> 1 where ``longest`` is 512 at most.
        """
        if not isinstance(extent, sympy.Expr) or not extent.has(*_BOUNDS):
            return extent
        decided = extent.replace(lambda part: isinstance(part, _BOUNDS), self._decided)
        return int(decided) if decided.is_Integer else decided

    def decide_all(self, shapes: SymbolicShapes) -> None:
        """Decide the extents in ``shapes``, and those that its tensors hold."""
        for name, shape in shapes.items():
            shapes[name] = tuple(map(self.decide, shape))
        for name, extents in shapes.contents.items():
            shapes.contents[name] = self.decide_contents(extents)

    def decide_contents(self, extents: Any) -> Any:
        """Decide what an integer tensor holds: a list of extents, or one; anything else stays."""
        return [self.decide(item) for item in extents] if isinstance(extents, list) else self.decide(extents)

    def _decided(self, part: sympy.Expr) -> sympy.Expr:
        smaller = isinstance(part, sympy.Min)
        left = list(part.args)
        for item in part.args:
            others = [other for other in left if other is not item]
            if any(self._reaches(item, other) if smaller else self._reaches(other, item) for other in others):
                left = others
        return part.func(*left)

    def _reaches(self, high: sympy.Expr, low: sympy.Expr) -> bool:
        """Whether ``high`` >= ``low`` for each length from 1 to ``longest``; False where that is not plain to see."""
        margin = sympy.expand(high - low)
        if margin.free_symbols - {SEQ} or not margin.is_polynomial(SEQ) or sympy.degree(margin, SEQ) > 1:
            return False
        return bool(min(margin.subs(SEQ, length) for length in (1, self.longest)) >= 0)
