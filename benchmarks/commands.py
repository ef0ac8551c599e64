"""The commands of ``python -m benchmarks``: read options, measure, print, write."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import plot, report
from benchmarks.cost import measure_cost
from benchmarks.field import Case
from benchmarks.load import measure_load
from benchmarks.one_length import measure_one_length
from benchmarks.ours import precision_available
from benchmarks.profiling import profile
from benchmarks.record import machine, write_json
from benchmarks.startup import measure_startup
from benchmarks.throughput import Budget, measure_all
from benchmarks.variants import measure_variants
from benchmarks.workloads import DISTRIBUTIONS, Requests, build, compile_packed, compile_padded, config_of
from models.bert import SIZES
from models.variants import VARIANTS
from poprt.executable import Executable


class Output:
    """Where a command's lines, tables and files go."""

    def __init__(self, folder: Path) -> None:
        self.console = Console(highlight=False)
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; throughput is the default."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure poprt. COMMAND --help lists a command's options."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (add, run, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--output_dir", type=Path, default=Path("bench_output"), help="where JSON and PNG go")
        add(command)
        command.set_defaults(run=run)
    options = parser.parse_args(_with_default(list(sys.argv[1:] if arguments is None else arguments)))
    options.run(options, Output(options.output_dir))


def _with_default(words: list[str]) -> list[str]:
    asks_for_help = words[:1] in (["-h"], ["--help"])
    return words if asks_for_help or (words and not words[0].startswith("-")) else ["throughput", *words]


def _add_throughput(parser: argparse.ArgumentParser) -> None:
    default = Budget()
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["minilm", "bert-base"])
    parser.add_argument("--lengths", nargs="+", choices=list(DISTRIBUTIONS), default=list(DISTRIBUTIONS))
    parser.add_argument("--precision", nargs="+", choices=["fp32", "int8"], help="default: all that poprt converts to")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of a measured slice, about")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="slices of each contender; medians count")
    parser.add_argument("--least", type=int, default=default.least, help="requests of a slice at least")
    parser.add_argument(
        "--minutes", type=float, default=default.minutes, help="for all cases; rounds are left out to fit"
    )


def _throughput(options: argparse.Namespace, output: Output) -> None:
    budget = Budget(options.seconds, options.rounds, options.least, options.minutes)
    precisions = options.precision or [name for name in ("fp32", "int8") if precision_available(name)]
    if not options.precision and "int8" not in precisions:
        output.line("int8: not available in this version of poprt; --precision int8 runs the others alone")
    cases = [
        Case(size, DISTRIBUTIONS[lengths], precision)
        for precision in precisions
        for size in options.sizes
        for lengths in options.lengths
    ]
    output.line(
        f"{len(cases)} cases; each contender gets as many requests as it runs in about {budget.seconds:g} s "
        f"(at least {budget.least}; fewer where {budget.minutes:g} minutes are short), {budget.rounds} times, "
        "in turns; medians count"
    )
    results = []
    for result in measure_all(cases, budget, output.line):
        output.console.print(report.case_table(result))
        results.append(result)
    output.finish("throughput", [], results, lambda path: plot.plot_throughput(results, path))
    output.console.print(report.announce(results))


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm")
    parser.add_argument("--lengths", choices=list(DISTRIBUTIONS), default="long")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one load, about")
    parser.add_argument("--rounds", type=int, default=2, help="times that each load is offered to each server")


def _load(options: argparse.Namespace, output: Output) -> None:
    lengths = DISTRIBUTIONS[options.lengths]
    result = measure_load(options.size, lengths, options.seconds, options.rounds, output.line)
    output.finish("load", [report.load_table(result)], result, lambda path: plot.plot_load(result, path))


def _add_cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm", help="of the curve against length")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a measured slice, at least")
    parser.add_argument("--rounds", type=int, default=3, help="slices of each point; medians count")


def _cost(options: argparse.Namespace, output: Output) -> None:
    result = measure_cost(options.size, options.seconds, options.rounds, output.line)
    output.finish("cost", report.cost_tables(result), result, lambda path: plot.plot_cost(result, path))


def _add_one_length(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm")
    parser.add_argument("--lengths", choices=list(DISTRIBUTIONS), default="short")
    parser.add_argument("--waiting", type=int, default=500, help="requests that wait at once")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way answers them; medians count")


def _one_length(options: argparse.Namespace, output: Output) -> None:
    result = measure_one_length(options.size, options.lengths, options.waiting, options.rounds, output.line)
    output.finish("one_length", [report.one_length_table(result)], result)


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "executables",
        nargs="*",
        type=Path,
        help="one executable, or two to compare; without any, --size is built unpacked and packed",
    )
    parser.add_argument("--size", choices=list(SIZES), default="minilm", help="the model to build")
    parser.add_argument("--lengths", choices=list(DISTRIBUTIONS), default="long")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=1000, help="ids are below it")
    parser.add_argument(
        "--precision", choices=["fp32", "int8"], default="fp32", help="of the packed model that is built"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="for one operator; a lane of a pack runner has 1 on up to 7 cores"
    )


def _profile(options: argparse.Namespace, output: Output) -> None:
    lengths = DISTRIBUTIONS[options.lengths]
    if options.executables:
        chosen = {str(path): Executable(path) for path in options.executables}
    else:
        model = build(options.size)
        chosen = {
            "padded": compile_padded(model, lengths.longest),
            "packed": compile_packed(model, lengths.longest, options.precision),
        }
    vocab = options.vocab if options.executables else config_of(options.size).vocab
    samples = Requests(lengths, vocab).take(0, options.requests)
    profiles = [profile(name, executable, samples, threads=options.threads) for name, executable in chosen.items()]
    output.finish("profile", [report.profile_table(profiles)], profiles)


def _add_startup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="bert-base")
    parser.add_argument("--runs", type=int, default=5, help="fresh processes for each; medians count")


def _startup(options: argparse.Namespace, output: Output) -> None:
    measured = measure_startup(options.size, options.runs, output.line)
    output.finish("startup", [report.startup_table(measured, options.size)], measured)


def _add_variants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--waiting", type=int, default=256, help="requests of a slice, which wait at once")
    parser.add_argument("--rounds", type=int, default=3, help="slices of each way; medians count")


def _variants(options: argparse.Namespace, output: Output) -> None:
    rates = measure_variants(options.variants, options.waiting, options.rounds, output.line)
    output.finish("variants", [report.variants_table(rates)], rates)


def _add_all(parser: argparse.ArgumentParser) -> None:
    text = f"for all commands; those other than throughput take about {_OTHERS_MINUTES:g}"
    parser.add_argument("--minutes", type=float, default=19.0, help=text)


def _all(options: argparse.Namespace, output: Output) -> None:
    folder = ["--output_dir", str(options.output_dir)]
    throughput = max(1.0, options.minutes - _OTHERS_MINUTES)
    main(["throughput", "--minutes", str(throughput), *folder])
    for command in _OTHERS:
        main([*command, *folder])
    output.line("all done")


#: What ``all`` runs after throughput, and the minutes that it takes, about.
_OTHERS = (
    ("load", "--lengths", "short", "--seconds", "8"),
    ("startup", "--runs", "3"),
    ("cost", "--seconds", "0.3"),
)
_OTHERS_MINUTES = 6.0

_Run = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, Output], None], str]
_COMMANDS: dict[str, _Run] = {
    "all": (_add_all, _all, "throughput, load, startup and cost, one after the other"),
    "throughput": (_add_throughput, _throughput, "all contenders against the best baseline and the roof (the default)"),
    "load": (_add_load, _load, "throughput and latency of a pack runner and a plain queue under rising load"),
    "cost": (_add_cost, _cost, "time for a token against sample length and hidden size"),
    "one_length": (_add_one_length, _one_length, "packs of one length against one request at a time"),
    "profile": (_add_profile, _profile, "the engine's time by operator type, for one or two executables"),
    "variants": (_add_variants, _variants, "the real MiniLM in each form that people ship: packed over padded"),
    "startup": (_add_startup, _startup, "seconds and memory of loading an executable and a plain model"),
}
