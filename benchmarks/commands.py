"""The commands of ``python -m benchmarks``: read options, measure, print, write."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.field import Case
from benchmarks.ours import precision_available
from benchmarks.plot import HOW_TO, plot_throughput
from benchmarks.report import announce, case_table, machine, write_json
from benchmarks.throughput import Budget, measure_all
from benchmarks.workloads import DISTRIBUTIONS
from models.bert import SIZES


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; throughput is the default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure poprt.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output_dir", type=Path, default=Path("bench_output"), help="where JSON and pictures go")
    _add_throughput(commands.add_parser("throughput", parents=[common], help="all contenders (the default)"))
    given = list(arguments) if arguments is not None else None
    options = parser.parse_args(_with_default(given))
    console = Console(highlight=False)
    options.run(options, console)


def _with_default(arguments: list[str] | None) -> list[str]:
    import sys

    given = sys.argv[1:] if arguments is None else arguments
    asks_for_help = given[:1] in (["-h"], ["--help"])
    return given if asks_for_help or (given and not given[0].startswith("-")) else ["throughput", *given]


def progress(console: Console) -> Callable[[str], None]:
    """Prints lines with the seconds since now."""
    start = time.perf_counter()

    def report(line: str) -> None:
        console.print(f"[dim]{time.perf_counter() - start:6.1f} s[/dim]  {line}", markup=True)

    return report


def _add_throughput(parser: argparse.ArgumentParser) -> None:
    default = Budget()
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["minilm", "bert-base"])
    parser.add_argument("--lengths", nargs="+", choices=list(DISTRIBUTIONS), default=list(DISTRIBUTIONS))
    parser.add_argument("--precision", nargs="+", choices=["fp32", "int8"], help="default: all that poprt converts to")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of a measured slice, about")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="slices of each contender; medians count")
    parser.add_argument("--least", type=int, default=default.least, help="requests of a slice at least")
    parser.set_defaults(run=_throughput)


def _throughput(options: argparse.Namespace, console: Console) -> None:
    start, report = time.perf_counter(), progress(console)
    budget = Budget(options.seconds, options.rounds, options.least)
    precisions = options.precision or [name for name in ("fp32", "int8") if precision_available(name)]
    if not options.precision and "int8" not in precisions:
        report("int8: not available in this version of poprt; --precision int8 runs the others alone")
    cases = [
        Case(size, DISTRIBUTIONS[lengths], precision)
        for precision in precisions
        for size in options.sizes
        for lengths in options.lengths
    ]
    report(
        f"{len(cases)} cases; each contender gets as many requests as it runs in about {budget.seconds:g} s "
        f"(at least {budget.least}), {budget.rounds} times, in turns; medians count"
    )
    results = measure_all(cases, budget, report)
    for result in results:
        console.print()
        console.print(case_table(result))
    console.print()
    console.print(announce(results))
    path = options.output_dir / "throughput.json"
    write_json(path, results=results, minutes=(time.perf_counter() - start) / 60)
    _picture(console, lambda: plot_throughput(results, path.with_suffix(".png")))
    about = machine()
    console.print(f"{about['processor']}, {about['cores']} cores; wrote {path}")


def _picture(console: Console, draw: Callable[[], None]) -> None:
    try:
        draw()
    except ImportError:
        console.print(HOW_TO)
