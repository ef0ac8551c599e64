"""`poprt pack`: a folder of transformers or sentence-transformers becomes one executable that takes texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from poprt.engine.choice import CHOICES
from poprt.manifest import ONNXRUNTIME
from poprt.option_kinds import PRECISION
from poprt_cli.commands import CONTEXT_SETTINGS, as_sizes
from poprt_cli.logs import configure_logging

if TYPE_CHECKING:
    from poprt.text import PackedText

#: As in poprt.text; written down so that the help needs neither onnx nor the engine. A test compares them.
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")
TASKS = ("embedding", "sequence-classification", "reranking", "token-classification", "question-answering")


@click.command("pack", context_settings=CONTEXT_SETTINGS)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The executable to write.")
@click.option(
    "--precision", type=click.Choice(PRECISION.words), default="fp32", show_default=True, help="As for a conversion."
)
@click.option("--max_length", type=click.IntRange(1), help="Most tokens of a text [default: what the folder says].")
@click.option(
    "--pooling", type=click.Choice(POOLINGS), help="How token vectors become one [default: as the folder says]."
)
@click.option("--task", type=click.Choice(TASKS), help="What the model is for [default: as config and graph say].")
@click.option(
    "--dimensions",
    callback=as_sizes,
    metavar="A,B",
    help="Sizes to which embeddings may be cut [default: those that the folder declares].",
)
@click.option(
    "--engine",
    type=click.Choice(CHOICES),
    default=ONNXRUNTIME,
    show_default=True,
    help="What to compile for; auto: both, and the faster one is found where it is served.",
)
@click.option(
    "--sample_texts",
    type=click.Path(path_type=Path),
    help="With int8: texts to measure it on, one a line [default: a list of the package's own].",
)
@click.option(
    "--logging_level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="The least severe messages to print, on stderr.",
)
@click.option("--disable_compilation_progress_bar", is_flag=True, help="Show no progress, also on a terminal.")
def pack_command(folder: Path, output: Path, logging_level: str, **options: Any) -> None:
    """Make an executable of FOLDER that takes texts.

    FOLDER is what transformers or sentence-transformers saved, with an export beside it: model.onnx or
    onnx/model.onnx, tokenizer.json, config.json. Task, pooling and limits are read from it; tokenizer, labels and
    prompts go into the executable.
    """
    configure_logging(logging_level)
    from poprt.text import PackOptions, pack  # here: it brings the engine and the compiler

    progress = not options.pop("disable_compilation_progress_bar")
    packed = pack(folder, output, PackOptions(progress=progress, **options))
    _print_summary(packed, output)


def _print_summary(packed: PackedText, output: Path) -> None:
    facts, packing = packed.facts, packed.executable.packing
    assert packing is not None, "what was packed says how"
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_row("task", facts.task)
    table.add_row("longest text", f"{facts.max_length} tokens")
    if facts.pooling:
        table.add_row("embedding", f"{facts.dimension} values, pooling {facts.pooling}{_length(facts.normalised)}")
    if facts.dimensions:
        table.add_row("may be cut to", _first(list(map(str, facts.dimensions))))
    if facts.labels:
        table.add_row("labels", escape(_first(facts.labels)))
    if facts.prompts:
        table.add_row("prompts", escape(", ".join(facts.prompts)))
    table.add_row("pack", f"{packing.rows} x {packing.columns} tokens, at most {packing.max_valid_num} texts")
    table.add_row("texts that may share a run", packing.neighbours)
    for finding in packed.converter.isolation.findings if packed.converter.isolation else ():
        outcome = "pass" if finding.passed else "FAIL"
        table.add_row("isolation", escape(f"{finding.experiment}: {outcome}, moved by {finding.difference:.2g}"))
    table.add_row("written", escape(f"{output}, {output.stat().st_size / 1e6:.1f} MB"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has no width; do not fold its lines
    console.print(table)


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:12], *(["..."] if len(names) > 12 else [])])


def _length(normalised: bool) -> str:
    return ", of length 1" if normalised else ""
