"""What ``execute`` takes, under the names that scripts give it. Any mapping will do."""

from __future__ import annotations

from poprt.runtime.buffers import Array


class InputMemoryView(dict[str, Array]):
    """Input name -> array."""


class OutputMemoryView(dict[str, Array]):
    """Output name -> array to fill."""
