"""Errors that a rewrite raises because of what the user gave it.

Each message names the tensor, node or option, says what was expected and how to fix it. Anything else that
escapes a pass is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

from passes.refusal import Refusal


class RewriteError(Exception):
    """The model or an option makes a rewrite impossible; the message says why and what to do."""

    def inside(self, where: str) -> Self:
        """The same error with all that it carries; its message begins with ``where``."""
        placed = copy.copy(self)
        placed.args = (f"{where}: {self}",)
        return placed


class UnknownPassError(RewriteError):
    """A pass name that is not registered; the message offers the nearest known ones."""


class PackingError(RewriteError):
    """A model or `pack_args` that cannot be packed.

    Args:
        message: what the user reads.
        refusals: the places that the message names, for code that asks; the first one counts.
    """

    def __init__(self, message: str, refusals: Sequence[Refusal] = ()) -> None:
        super().__init__(message)
        self.refusals = tuple(refusals)
