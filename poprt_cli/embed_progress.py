"""How far `poprt embed` is, on stderr, and only where someone watches."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from typing import Self

    from poprt.bulk.work import PieceDone


class Bars:
    """A bar for the pieces that are done, and one for those that stand in the output.

    Args:
        disabled: show nothing. Nothing is shown either where stderr is no terminal.

    Attributes:
        pieces: how many there are; 0 until work begins.
        done: how many of them are done, by earlier runs too.
        rows, errors: rows of the output, and those of them that have errors.
    """

    def __init__(self, *, disabled: bool = False) -> None:
        self.pieces = self.done = self.rows = self.errors = 0
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bar = Progress(*columns, console=console, disable=disabled or not console.is_terminal)
        self._task = self._bar.add_task("checking", total=None, rate="")
        self._started, self._rows_here = time.monotonic(), 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, pieces: int, done: int) -> None:
        """There are so many pieces; an earlier run has done some of them."""
        self.pieces, self.done = pieces, done
        self._started = time.monotonic()
        # A new beginning: what was done before says nothing of how fast it goes.
        self._bar.reset(self._task, description="embedding", total=pieces, completed=done)

    def advance(self, piece: PieceDone) -> None:
        """One more is done."""
        self.done += 1
        self._rows_here += piece.rows
        rate = self._rows_here / max(1e-9, time.monotonic() - self._started)
        self._bar.update(self._task, completed=self.done, rate=f"{rate:,.0f} texts/s")

    def joining(self) -> None:
        """All are done."""
        self._task = self._bar.add_task("joining", total=self.pieces, rate="")

    def joined(self, piece: PieceDone) -> None:
        """One more stands in the output."""
        self.rows += piece.rows
        self.errors += piece.errors
        self._bar.advance(self._task)
