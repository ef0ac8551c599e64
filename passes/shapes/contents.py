"""What shape inference may know of a tensor's contents: a few numbers and short expressions, as shapes have."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import sympy

#: Elements; shape arithmetic never needs larger constants.
LARGEST_VALUE_READ = 1024

_MOST_TERMS = 128  # of one expression; those of exporters have a dozen
_LARGEST_EXPONENT = 64
_LARGEST_NUMBER = 2**63


def is_shape_like(contents: Any) -> bool:
    """Whether ``contents`` (one extent, or a list of them) are short, and their expressions such as extents have.

    Each operator of a chain may square what it reads, and what it computes with grows without bound.
    """
    if np.size(contents) > LARGEST_VALUE_READ:
        return False
    items: Iterable[Any] = contents if isinstance(contents, (list, tuple)) else np.ravel(contents)
    return all(_is_short(item) for item in items)


def _is_short(item: Any) -> bool:
    if not isinstance(item, sympy.Basic):
        return not isinstance(item, int) or abs(item) < _LARGEST_NUMBER
    terms = list(islice(sympy.preorder_traversal(item), _MOST_TERMS + 1))
    return len(terms) <= _MOST_TERMS and not any(_is_beyond(term) for term in terms)


def _is_beyond(term: sympy.Basic) -> bool:
    if isinstance(term, sympy.Integer):
        return bool(abs(int(term)) >= _LARGEST_NUMBER)
    return isinstance(term, sympy.Pow) and isinstance(term.exp, sympy.Integer) and int(term.exp) > _LARGEST_EXPONENT
