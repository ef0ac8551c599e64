"""Folders that results are to go to."""

from __future__ import annotations

import tempfile
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make ``folder`` where there is none, and see that files can be made in it.

    Raises:
        OSError: it cannot be made or written to.
        ValueError: no path can hold its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
