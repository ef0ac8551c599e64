"""What runners ask of an engine's session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt


class Session(Protocol):
    """An engine session: declared names in, the engine's types and shapes out. Safe to call from several threads."""

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], output_names: Sequence[str] | None = None
    ) -> list[npt.NDArray[Any]]:
        """Run the graph once and return the named outputs in order."""


class OwnSession(Session, Protocol):
    """A session that an engine of this project opens."""

    @property
    def computes_in(self) -> str:
        """The numpy name of the type that matrix products of floats are computed in."""
