"""The commands of ``python -m benchmarks``: read options, measure, print, write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import pair_commands, plot, report
from benchmarks.cost import measure_cost
from benchmarks.field import Case
from benchmarks.load import measure_load
from benchmarks.one_length import measure_one_length
from benchmarks.options import add_pairs, count, duration
from benchmarks.output import Output
from benchmarks.pairs import PAIRS
from benchmarks.products import products
from benchmarks.profiling import Profile, profile
from benchmarks.roof import PRECISIONS, measure_roof
from benchmarks.roof_table import roof_table
from benchmarks.serve import commands as serve_commands
from benchmarks.startup import measure_startup
from benchmarks.throughput import Budget, measure_all
from benchmarks.token_kinds import KINDS, measure_kinds
from benchmarks.variants import measure_variants
from benchmarks.workloads import DISTRIBUTIONS, Lengths, Requests, build, compile_packed, compile_padded, config_of
from models.bert import SIZES
from models.variants import VARIANTS
from models.vectors import SIZES as VECTOR_SIZES
from poprt.executable import Executable


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
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    add_pairs(parser, default.seconds)
    parser.add_argument(
        "--minutes",
        type=duration,
        default=default.minutes,
        help="for all cases; pairs are left out to fit, all but three",
    )


def _throughput(options: argparse.Namespace, output: Output) -> None:
    budget = Budget(options.seconds, options.pairs, options.minutes)
    cases = [
        Case(size, DISTRIBUTIONS[lengths], precision)
        for precision in options.precision
        for size in options.sizes
        for lengths in options.lengths
    ]
    output.line(
        f"{len(cases)} cases; the pack runner and one contender in turn, slices of about {budget.seconds:g} s (a batch "
        f"at least), {budget.pairs} pairs (fewer where {budget.minutes:g} minutes are short)"
    )
    results = []
    for result in measure_all(cases, budget, output.line):
        output.console.print(report.case_table(result))
        results.append(result)
    output.finish("throughput", [], results, lambda path: plot.plot_throughput(results, path))
    output.console.print(report.announce(results))


def _add_roof(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm", help="of the encoder whose products are run")
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--seconds", type=duration, default=0.5, help="of a way with a number of rows, about")


def _roof(options: argparse.Namespace, output: Output) -> None:
    config = config_of(options.size)
    results = [measure_roof(config, precision, options.seconds, output.line) for precision in options.precision]
    output.finish("roof", [roof_table(results, options.size, products(config))], results)


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm")
    parser.add_argument("--lengths", choices=list(DISTRIBUTIONS), default="long")
    parser.add_argument("--seconds", type=duration, default=60.0, help="of one load, about; p99.9 needs 60 and more")
    parser.add_argument("--queue_seconds", type=duration, default=8.0, help="of one load for the plain queue, at most")
    parser.add_argument("--rounds", type=count, default=1, help="times that each load is offered to each server")


def _load(options: argparse.Namespace, output: Output) -> None:
    lengths = DISTRIBUTIONS[options.lengths]
    result = measure_load(
        options.size,
        lengths,
        options.seconds,
        options.rounds,
        output.line,
        queue_seconds=options.queue_seconds,
    )
    output.finish("load", [report.load_table(result)], result, lambda path: plot.plot_load(result, path))


def _add_cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm", help="of the curve against length")
    add_pairs(parser, 0.1)


def _cost(options: argparse.Namespace, output: Output) -> None:
    result = measure_cost(options.size, options.seconds, options.pairs, output.line)
    output.finish("cost", report.cost_tables(result), result, lambda path: plot.plot_cost(result, path))


def _add_one_length(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm")
    parser.add_argument("--lengths", choices=list(DISTRIBUTIONS), default="short")
    parser.add_argument("--waiting", type=count, default=500, help="requests that wait at once")
    parser.add_argument("--pairs", type=count, default=PAIRS, help="times that each way answers them")


def _one_length(options: argparse.Namespace, output: Output) -> None:
    result = measure_one_length(options.size, options.lengths, options.waiting, options.pairs, output.line)
    output.finish("one_length", [report.one_length_table(result)], result)


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--size", choices=list(VECTOR_SIZES), default="small", help="base is that of BERT-base")
    parser.add_argument("--samples", type=count, default=32, help="samples that wait at once")
    parser.add_argument("--pairs", type=count, default=PAIRS, help="times that each way answers them")


def _kinds(options: argparse.Namespace, output: Output) -> None:
    results = measure_kinds(options.kinds, options.size, options.samples, options.pairs, output.line)
    output.finish("kinds", [report.kinds_table(results, options.size)], results)


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "executables",
        nargs="*",
        type=Path,
        help="one executable, or two to compare; without any, --size is built unpacked and packed",
    )
    parser.add_argument("--size", choices=list(SIZES), default="minilm", help="the model to build")
    parser.add_argument("--lengths", nargs="+", choices=list(DISTRIBUTIONS), default=["long"])
    parser.add_argument("--requests", type=count, default=32)
    parser.add_argument("--vocab", type=count, default=1000, help="ids are below it")
    parser.add_argument(
        "--precision", choices=["fp32", "int8"], default="fp32", help="of the packed model that is built"
    )
    parser.add_argument(
        "--threads", type=count, default=1, help="for one operator; a lane of a pack runner has 1 on up to 7 cores"
    )


def _profile(options: argparse.Namespace, output: Output) -> None:
    everything: list[Profile] = []
    tables = []
    for lengths in options.lengths:
        profiles = _profiles(options, DISTRIBUTIONS[lengths])
        tables.append(report.profile_table(profiles))
        everything += profiles
    output.finish("profile", tables, everything)


def _profiles(options: argparse.Namespace, lengths: Lengths) -> list[Profile]:
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
    return [profile(name, executable, samples, threads=options.threads) for name, executable in chosen.items()]


def _add_startup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="bert-base")
    parser.add_argument("--runs", type=count, default=5, help="fresh processes for each; medians count")


def _startup(options: argparse.Namespace, output: Output) -> None:
    measured = measure_startup(options.size, options.runs, output.line)
    output.finish("startup", [report.startup_table(measured, options.size)], measured)


def _add_variants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    add_pairs(parser, 0.5)


def _variants(options: argparse.Namespace, output: Output) -> None:
    rates = measure_variants(options.variants, options.seconds, options.pairs, output.line)
    output.finish("variants", [report.variants_table(rates)], rates)


def _add_all(parser: argparse.ArgumentParser) -> None:
    text = f"for all commands; those other than throughput take about {_OTHERS_MINUTES:g}"
    parser.add_argument("--minutes", type=duration, default=50.0, help=text)


def _all(options: argparse.Namespace, output: Output) -> None:
    folder = ["--output_dir", str(options.output_dir)]
    throughput = max(1.0, options.minutes - _OTHERS_MINUTES)
    main(["throughput", "--seconds", "0.3", "--minutes", str(throughput), *folder])
    for command in _OTHERS:
        main([*command, *folder])
    output.line("all done")


#: What ``all`` runs after throughput, and the minutes that it takes, about.
_OTHERS = (
    ("roof",),
    ("load", "--lengths", "short"),
    ("any_batch",),
    ("lone",),
    ("mixed",),
    ("long_texts",),
    ("variants", "--seconds", "0.3"),
    ("one_length",),
    ("kinds", "--samples", "16", "--pairs", "3"),
    ("startup", "--runs", "3"),
    ("cost",),
    ("profile", "--lengths", "short", "long"),
)
_OTHERS_MINUTES = 25

_Run = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, Output], None], str]
_COMMANDS: dict[str, _Run] = {
    "all": (_add_all, _all, "every other command but serve and encode, one after the other"),
    "throughput": (_add_throughput, _throughput, "the pack runner against every contender and the roof (the default)"),
    "roof": (_add_roof, _roof, "the fastest products of any engine, and the arithmetic peak of the cores"),
    "load": (_add_load, _load, "throughput and latency of a pack runner and a plain queue under rising load"),
    **pair_commands.COMMANDS,
    **serve_commands.COMMANDS,
    "cost": (_add_cost, _cost, "time for a token against sample length and hidden size"),
    "one_length": (_add_one_length, _one_length, "packs of one length against one request at a time and other packs"),
    "kinds": (_add_kinds, _kinds, "tokens that are no words: boxes, frames, patches, raw sound"),
    "profile": (_add_profile, _profile, "the engine's time by operator type, for one or two executables"),
    "variants": (_add_variants, _variants, "the real MiniLM in each form that people ship: packed over padded"),
    "startup": (_add_startup, _startup, "seconds and memory of loading an executable and a plain model"),
}
