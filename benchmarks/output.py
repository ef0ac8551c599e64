"""Where a command's results go: lines and tables to the terminal, JSON and pictures to a folder."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import plot
from benchmarks.record import machine, write_json

_WIDTH = 180  # of a table in a file or a pipe, where no terminal says how wide it is


class Output:
    """Where a command's lines, tables and files go."""

    def __init__(self, folder: Path) -> None:
        told = sys.stdout.isatty() or "COLUMNS" in os.environ
        self.console = Console(highlight=False, width=None if told else _WIDTH)
        self._folder = folder
        self._start = time.perf_counter()

    def line(self, text: str) -> None:
        """Print a line of progress with the seconds so far."""
        self.console.print(f"[dim]{time.perf_counter() - self._start:6.1f} s[/dim]  {text}")

    def finish(
        self, name: str, tables: Sequence[Table], content: object, draw: Callable[[Path], None] | None = None
    ) -> None:
        """Print the tables, write NAME.json and, with ``draw``, NAME.png."""
        for table in tables:
            self.console.print()
            self.console.print(table)
        path = self._folder / f"{name}.json"
        write_json(path, results=content, minutes=(time.perf_counter() - self._start) / 60)
        written = [str(path)]
        try:
            if draw is not None:
                draw(path.with_suffix(".png"))
                written.append(str(path.with_suffix(".png")))
        except ImportError:
            self.console.print(plot.HOW_TO)
        about = machine()
        self.console.print(f"{about['processor']}, {about['cores']} cores; wrote {' and '.join(written)}")
