"""Show which pass runs, on stderr, and only where someone watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def pass_progress(total: int, *, disabled: bool = False) -> Iterator[Callable[[str], None]]:
    """Yield a function that is called with each pass's name before it runs.

    Args:
        total: how many passes there are.
        disabled: show nothing. Nothing is shown either where stderr is no terminal.
    """
    console = Console(stderr=True)
    if disabled or not console.is_terminal:
        yield lambda name: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=total)
        started = False

        def show(name: str) -> None:
            nonlocal started
            progress.update(task, description=name, advance=1 if started else 0)
            started = True

        yield show
