"""The command `poprt_exec`: work with executables."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from poprt.engine.choice import CHOICES
from poprt.errors import PoprtError
from poprt.executable import Executable
from poprt.runtime import HostConcatRunnerConfig, LightRunnerConfig
from poprt_cli.commands import CONTEXT_SETTINGS, CommandGroup, as_sizes
from poprt_cli.engines import show_engines
from poprt_cli.isolated import LEAST_MEGABYTES, run_isolated
from poprt_cli.logs import configure_logging
from poprt_cli.run_popef import Timing, one_model, run_model, run_packed

#: Runner -> what times it.
_RUNNERS: dict[str, Callable[..., Timing]] = {
    "modelRunner": run_model,
    "packRunner": run_packed,
    "lightRunner": partial(run_model, config_type=LightRunnerConfig),
    "hostConcatRunner": partial(run_model, config_type=HostConcatRunnerConfig),
}


@click.group("poprt_exec", cls=CommandGroup, context_settings=CONTEXT_SETTINGS)
@click.version_option(None, "-v", "--version", package_name="poprt", message="%(prog)s %(version)s")
def cli() -> None:
    """Work with executables."""
    configure_logging("INFO")


@cli.command("poprt_run_popef")
@click.option("--popef", required=True, type=click.Path(path_type=Path), help="The executable.")
@click.option("--runner", type=click.Choice(list(_RUNNERS)), default="modelRunner", show_default=True)
@click.option("--iteration", type=click.IntRange(1), default=100, show_default=True, help="How many timed runs.")
@click.option("--numThreads", "threads", type=click.IntRange(1), default=1, show_default=True, help="Calling threads.")
@click.option("--index", type=click.IntRange(0), default=0, help="Which model of an executable of several.")
@click.option("--batchSize", "batch_size", type=click.IntRange(1), help="All but the pack runner: rows in a request.")
@click.option("--maxValidNum", "max_valid_num", type=click.IntRange(1), help="Pack runner: most samples in a pack.")
@click.option("--packTimeout", "pack_timeout", type=click.IntRange(0), default=0, help="Pack runner: microseconds.")
@click.option("--dynamicInputName", "dynamic_input", default="", help="Pack runner: the input that gives the length.")
@click.option("--maskName", "mask", default="", help="Pack runner: the mask input.")
@click.option("--custom_ops", multiple=True, metavar="LIB", help="A library of operators that onnxruntime lacks.")
@click.option(
    "--engine",
    type=click.Choice(CHOICES),
    help="What computes; auto: the faster one [default: as it was compiled for].",
)
@click.option("--isolated", is_flag=True, help="In a process of its own, with limits: for files of strangers.")
@click.option(
    "--memory_limit",
    type=click.IntRange(LEAST_MEGABYTES),
    default=8192,
    show_default=True,
    help="With --isolated: MiB of address space.",
)
@click.option(
    "--time_limit", type=click.IntRange(1), default=300, show_default=True, help="With --isolated: seconds, in all."
)
@click.pass_context
def run_popef(
    ctx: click.Context,
    /,
    popef: Path,
    runner: str,
    index: int,
    isolated: bool,
    memory_limit: int,
    time_limit: int,
    **options: Any,
) -> None:
    """Run an executable on random data and print latency and throughput."""
    if not os.path.isfile(popef):  # Path.is_file raises for a name that is too long
        raise PoprtError(f"--popef {str(popef)!r} does not exist or is no file")
    if isolated:
        ctx.exit(run_isolated(_words(popef, runner, index, options), memory_limit, time_limit))
    try:
        _report(_RUNNERS[runner](one_model(Executable(popef), index), **options))
    except OSError as error:
        if error.filename is None:
            raise
        raise PoprtError(f"--popef {str(popef)!r} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise PoprtError(f"--popef {str(popef)!r} needs more memory than there is") from error


@cli.command("engines")
@click.option("--popef", required=True, type=click.Path(path_type=Path), help="The executable.")
@click.option("--index", type=click.IntRange(0), default=0, help="Which model of an executable of several.")
@click.option("--custom_ops", multiple=True, metavar="LIB", help="A library of operators that onnxruntime lacks.")
@click.option(
    "--typical_lengths", callback=as_sizes, metavar="N,N,...", help="Tokens of samples in use, which are timed."
)
def engines(popef: Path, index: int, custom_ops: tuple[str, ...], typical_lengths: tuple[int, ...] | None) -> None:
    """Time the engines that can run an executable, and say which one `engine=auto` takes here."""
    if not os.path.isfile(popef):
        raise PoprtError(f"--popef {str(popef)!r} does not exist or is no file")
    show_engines(one_model(Executable(popef), index), custom_ops, typical_lengths or ())


def _words(popef: Path, runner: str, index: int, options: dict[str, Any]) -> list[str]:
    """The command line that runs the same without --isolated."""
    words = ["poprt_run_popef", "--popef", str(popef), "--runner", runner, "--index", str(index)]
    for param in run_popef.params:
        value = options.get(param.name or "")
        for item in value if isinstance(value, tuple) else (value,):
            words += [param.opts[0], str(item)] if item not in (None, "") else []
    return words


def _report(timing: Timing) -> None:
    for what, seconds in (
        ("max", timing.longest),
        ("min", timing.shortest),
        ("mean", timing.mean),
        ("p99", timing.p99),
    ):
        click.echo(f"{what} latency: {seconds * 1e3:.3f} ms")
    click.echo(f"iterations: {len(timing.seconds)}")
    click.echo(f"batch size: {timing.batch_size}")
    click.echo(f"total time: {timing.total:.3f} s")
    click.echo(f"throughput: {timing.throughput:.1f} samples/s")


def main() -> None:
    """Run the command and exit."""
    cli(prog_name="poprt_exec")
