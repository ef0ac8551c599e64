"""`poprt embed`: all texts of a file become embeddings, on this machine or on a cluster of Ray."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poprt.errors import PoprtError
from poprt_cli.commands import CONTEXT_SETTINGS
from poprt_cli.embed_progress import Bars
from poprt_cli.logs import configure_logging
from poprt_cli.streams import print_last

if TYPE_CHECKING:
    from poprt.bulk.work import Execute

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(1)


@click.command("embed", context_settings=CONTEXT_SETTINGS)
@click.argument("source", metavar="INPUT", type=_PATH)
@click.option("-o", "--output", required=True, type=_PATH, help="The Parquet file to write.")
@click.option("-m", "--model", required=True, type=_PATH, help="What `poprt pack` made, for embeddings.")
@click.option("--column", default="text", show_default=True, help="The texts; of a .txt, the name for its lines.")
@click.option("--output-column", default="embedding", show_default=True, help="Where embeddings go.")
@click.option("--error-column", default="error", show_default=True, help="Where it says why a row has none.")
@click.option("--prompt-name", help="Which of the model's prompts stands before each text [default: the model's].")
@click.option("--dimensions", type=_COUNT, help="Cut embeddings to so many values [default: whole].")
@click.option("--lanes", type=_COUNT, help="Runs at the same time, on one machine [default: auto].")
@click.option("--token-budget", type=_COUNT, help="Tokens that a pack aims at [default: measured; on Ray 512].")
@click.option("--ray", metavar="local|ADDRESS", help="Run on Ray: one that is started here, or a cluster.")
@click.option("--actors", type=_COUNT, help="With --ray: processes [default: all CPUs of the cluster].")
@click.option("--actor-cpus", type=_COUNT, help="With --ray: cores of each [default: 1].")
@click.option("--no-progress", is_flag=True, help="Show no progress, also on a terminal.")
def embed_command(source: Path, output: Path, model: Path, no_progress: bool, **options: Any) -> None:
    """Embed the texts of INPUT: a .parquet, a .jsonl with an object a line, or a .txt with a text a line.

    The output has the rows of the input in their order, with a column of embeddings and one of errors: a bad row does
    not end the job. What is done stands in OUTPUT.parts until the end: the same command goes on after an interruption.
    """
    configure_logging("INFO")
    try:
        from poprt.bulk.columns import Columns  # here: pyarrow is an extra
        from poprt.bulk.job import run
        from poprt.bulk.work import Job
    except ImportError as error:
        raise PoprtError(f"{error.name} is not installed: pip install 'poprt[embed]'") from error

    columns = Columns(options["column"], options["output_column"], options["error_column"])
    source, target, model = source.absolute(), output.absolute(), model.absolute()
    job = Job(source, target, model, columns, options["prompt_name"], options["dimensions"])
    execute = _execute(options)
    bars = Bars(disabled=no_progress)
    try:
        with bars:
            finished = run(job, execute, bars)
    except BaseException:
        if bars.pieces:
            print_last(f"{bars.done} of {bars.pieces} pieces are done and kept. Go on with:\n{_same_command()}")
        raise
    if finished:
        click.echo(f"{output}: {bars.rows} rows, {bars.errors} of them with errors")
    else:
        click.echo(f"{output}: was finished before")


def _execute(options: dict[str, Any]) -> Execute:
    """What does the pieces; raise PoprtError where an option is for the other way."""
    on_ray = options["ray"] is not None
    for name in ("lanes",) if on_ray else ("actors", "actor_cpus"):
        if options[name] is not None:
            other = "--actor-cpus says it on Ray" if on_ray else "it needs --ray"
            raise click.UsageError(f"--{name.replace('_', '-')}: {other}")
    if not on_ray:
        from poprt.bulk.work import here
        from poprt.runtime.config import PackRunnerConfig

        return here(PackRunnerConfig(lanes=options["lanes"], token_budget=options["token_budget"]))
    try:
        from poprt.ray.job import on_ray as execute_on_ray
    except ImportError as error:
        raise PoprtError(f"{error.name} is not installed: pip install 'poprt[ray]'") from error
    address = None if options["ray"] == "local" else options["ray"]
    return execute_on_ray(address, options["actors"], options["actor_cpus"] or 1, options["token_budget"])


def _same_command() -> str:
    return f"poprt {shlex.join(sys.argv[1:])}"
