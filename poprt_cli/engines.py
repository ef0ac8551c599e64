"""The engines that can run an executable, and how fast each is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from poprt.engine.choice import AUTO, HOW_TO_INSTALL, is_installed
from poprt.executable import Executable
from poprt.manifest import ENGINES
from poprt.runtime.opening import Opening, Trial, try_engines


def show_engines(executable: Executable, custom_ops: Sequence[str] = (), typical_lengths: Sequence[int] = ()) -> None:
    """Print a line for each engine there is: what it was timed at, or why it was not.

    Raises:
        PoprtError: none of them runs the executable.
    """
    _, trials = try_engines(executable, Opening(AUTO, custom_ops=custom_ops, typical_lengths=typical_lengths))
    seen = {trial.engine: trial for trial in trials}
    table = Table("engine", "pace", "")
    for engine in ENGINES:
        trial = seen.get(engine)
        pace = str(trial.pace) if trial is not None and trial.pace is not None else ""
        table.add_row(engine, pace, _remark(executable, engine, trial))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has no width; do not fold its lines
    console.print(table)


def _remark(executable: Executable, engine: str, trial: Trial | None) -> str:
    if engine not in executable.manifest.engines:
        return "no graph for it: compile with --compiler_options engine=auto"
    if trial is None:
        return "not used on this device" if is_installed(engine) else f"not installed: {HOW_TO_INSTALL}"
    return "used by engine=auto" if trial.chosen else trial.refusal
