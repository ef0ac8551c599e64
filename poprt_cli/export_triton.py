"""`poprt export-triton`: a packed executable becomes a folder of Triton's model repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from poprt.errors import PoprtError
from poprt_cli.commands import CONTEXT_SETTINGS
from poprt_cli.logs import configure_logging

if TYPE_CHECKING:
    from poprt.triton import ExportedModel


@click.command("export-triton", context_settings=CONTEXT_SETTINGS)
@click.argument("executable", type=click.Path(path_type=Path))
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--name", help="The model's name in Triton [default: that of the file].")
@click.option("--max_batch_size", type=click.IntRange(1), help="Most texts of a run [default: by their memory].")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="Runs side by side.")
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="onnxruntime's threads for each instance; 0 leaves it to onnxruntime.",
)
@click.option(
    "--logging_level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="The least severe messages to print, on stderr.",
)
def export_triton_command(
    executable: Path, repository: Path, name: str | None, logging_level: str, **options: Any
) -> None:
    """Write EXECUTABLE into Triton's model REPOSITORY.

    EXECUTABLE is what `poprt pack` or --export_popef wrote, packed across rows. REPOSITORY/NAME gets config.pbtxt and
    1/model.onnx for the onnxruntime backend: requests of any length share a run without padding (ragged batching).
    """
    configure_logging(logging_level)
    from poprt.executable import Executable  # here: it brings numpy, and the next line onnx and the engine
    from poprt.triton import TritonOptions, export_triton

    if not executable.is_file():
        raise PoprtError(f"{str(executable)!r} does not exist or is no file")
    loaded = Executable(executable)
    try:
        exported = export_triton(loaded, repository, TritonOptions(name or executable.stem, **options))
    except PoprtError as error:
        raise type(error)(f"{str(executable)!r}: {error}") from error
    _print_summary(exported)


def _print_summary(exported: ExportedModel) -> None:
    interface = exported.interface
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for kind, ports in (("input", interface.inputs), ("output", interface.outputs)):
        for port in ports:
            extents = ", ".join("any" if extent < 0 else str(extent) for extent in port.dims)
            table.add_row(kind, escape(f"{port.name}  {port.dtype} [{', '.join(filter(None, ('texts', extents)))}]"))
    table.add_row("longest text", f"{interface.longest} tokens")
    together = "of any length" if interface.ragged else "of one length"
    table.add_row("texts of a run", f"{interface.max_batch_size}, {together}")
    for name in exported.files:
        table.add_row("written", escape(f"{exported.folder / name}"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has no width; do not fold its lines
    console.print(table)
