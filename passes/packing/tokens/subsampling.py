"""How strided convolutions, pooling and tokens put in front change the length of a sequence.

A convolution with kernel k, dilation d, stride s and pads p makes floor((L + 2p - d(k - 1) - 1) / s) + 1 places of L.
Several in a row make a length of the same form: floor((floor((L + a) / s) + b) / t) = floor((L + a + b * s) / (s * t)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy

from passes.packing.tokens.axes import SEQ


@dataclass(frozen=True)
class Subsampling:
    """floor((length + add) / stride) places."""

    add: int
    stride: int

    @property
    def receptive_field(self) -> tuple[int, int, int]:
        """Window, stride and pad of a convolution that leaves as many: floor((length + pad - window) / stride) + 1."""
        window = max(1, self.stride - self.add)
        return window, self.stride, self.add - self.stride + window

    def places(self, length: int) -> int:
        """Places for a sequence of ``length``, at least 0."""
        return max(0, (length + self.add) // self.stride)

    def tokens(self, places: int) -> int:
        """The shortest sequence that leaves so many places, at least 1."""
        return max(1, places * self.stride - self.add)

    def shifted(self, places: int) -> Subsampling:
        """As many places more."""
        return Subsampling(self.add + places * self.stride, self.stride)

    def divided(self, add: int, stride: int) -> Subsampling:
        """What floor((places + add) / stride) is of the length."""
        return Subsampling(self.add + add * self.stride, self.stride * stride)


#: The sequence as it is.
WHOLE = Subsampling(0, 1)


def subsampling_of(extent: Any) -> Subsampling | None:
    """How an extent follows from the sequence; None where it does not, or in another way.

    seq -> (0, 1). floor((floor((seq - 1) / 2) - 1) / 2) -> (-3, 4): floor((seq - 3) / 4).
    """
    expression = sympy.sympify(extent)
    if expression == SEQ:
        return WHOLE
    if expression.is_Add:
        number, rest = expression.as_coeff_Add()
        inner = subsampling_of(rest) if number.is_Integer and number != 0 else None
        return None if inner is None else inner.shifted(int(number))
    if isinstance(expression, (sympy.floor, sympy.ceiling)):
        return _rounded(expression.args[0], up=isinstance(expression, sympy.ceiling))
    return None


def _rounded(quotient: sympy.Expr, *, up: bool) -> Subsampling | None:
    """floor or ceiling of (places + b) / t, where t is a number; b may be a fraction."""
    number, rest = sympy.expand(quotient).as_coeff_Add()
    factor, places = rest.as_coeff_Mul()
    inner = subsampling_of(places)
    if inner is None or not factor.is_Rational or not number.is_Rational or factor.p != 1:
        return None
    stride = int(factor.q)
    add = sympy.ceiling(number * stride) + stride - 1 if up else sympy.floor(number * stride)
    return inner.divided(int(add), stride)
