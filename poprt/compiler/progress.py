"""Progress of a compilation, where somebody watches."""

from __future__ import annotations

import logging
from types import TracebackType

from rich.console import Console
from rich.status import Status

logger = logging.getLogger("poprt")


class Progress:
    """Shows the step under way on standard error when that is a terminal; logs it at DEBUG in any case."""

    def __init__(self, show: bool) -> None:
        console = Console(stderr=True)
        spinner = "line" if console.options.ascii_only else "dots"
        self._status = Status("compiling", console=console, spinner=spinner) if show and console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def step(self, what: str) -> None:
        """Name the step that starts now."""
        logger.debug("compile: %s", what)
        if self._status is not None:
            self._status.update(f"compiling: {what}")
