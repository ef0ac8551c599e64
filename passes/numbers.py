"""Whole numbers as options give them."""

from __future__ import annotations

from typing import Any

#: The largest extent, and count of samples, that is taken: what an int32 input such as `unpack_info` can say.
LARGEST_EXTENT = 2**31 - 1

_MOST_DIGITS = 20  # more than any number that is meant


def whole_number(value: Any) -> int | None:
    """``value`` (a number, or a text of decimal digits) as an int, or None where it is no whole number of 64 bits."""
    text = str(value).strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _MOST_DIGITS:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None
