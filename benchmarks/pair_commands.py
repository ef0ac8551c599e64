"""The commands that hold one way of poprt's against plain onnxruntime, and print one table of pairs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import any_batch, lone, long_texts, mixed
from benchmarks.options import add_pairs, budget, count, share
from benchmarks.output import Output
from benchmarks.pair_table import comparison_table
from models.bert import SIZES


def _add_any_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm", help="of the BERT")
    parser.add_argument("--batches", nargs="+", type=count, default=list(any_batch.BATCHES), help="rows of a request")
    add_pairs(parser, 0.2)


def _any_batch(options: argparse.Namespace, output: Output) -> None:
    measured = any_batch.measure_any_batch(options.size, options.batches, options.seconds, options.pairs, output.line)
    output.finish(
        "any_batch", [comparison_table("an unpacked executable of 16 rows, other batches", measured)], measured
    )


def _add_lone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(lone.SIZES))
    parser.add_argument("--tokens", nargs="+", type=count, default=list(lone.TOKENS), help="of the request")
    add_pairs(parser, 0.5)


def _lone(options: argparse.Namespace, output: Output) -> None:
    measured = lone.measure_lone(options.sizes, options.tokens, options.seconds, options.pairs, output.line)
    title = "a request alone on an idle pack runner; onnxruntime has all cores"
    output.finish("lone", [comparison_table(title, measured)], measured)


def _add_mixed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm")
    parser.add_argument("--documents", nargs="+", type=share, default=list(mixed.SHARES), help="shares, 0 to 1")
    parser.add_argument(
        "--budgets", nargs="+", type=budget, default=list(mixed.BUDGETS), help='token budgets; "own" is the runner\'s'
    )
    parser.add_argument("--requests_tokens", type=count, default=mixed.TOKENS, help="of the requests that wait at once")
    add_pairs(parser, 0.5)


def _mixed(options: argparse.Namespace, output: Output) -> None:
    measured = mixed.measure_mixed(
        options.size,
        options.documents,
        options.budgets,
        options.seconds,
        options.pairs,
        output.line,
        tokens=options.requests_tokens,
    )
    title = f"{options.size}: queries and documents in one queue; onnxruntime runs one at a time on each core"
    output.finish("mixed", [comparison_table(title, measured, throughput=True)], measured)


def _add_long_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="minilm")
    parser.add_argument("--layers", type=count, default=2)
    parser.add_argument("--tokens", nargs="+", type=count, default=list(long_texts.TOKENS), help="of the text")
    add_pairs(parser, 0.5)


def _long_texts(options: argparse.Namespace, output: Output) -> None:
    measured = long_texts.measure_long_texts(
        options.size, options.layers, options.tokens, options.seconds, options.pairs, output.line
    )
    title = "one long text; onnxruntime has all cores; peaks are above what is in memory after loading"
    output.finish("long_texts", [comparison_table(title, measured)], measured)


_Run = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, Output], None], str]
#: By name: adds the options, runs, and says what it does.
COMMANDS: dict[str, _Run] = {
    "any_batch": (_add_any_batch, _any_batch, "an unpacked executable of 16 rows on batches of any other size"),
    "lone": (_add_lone, _lone, "a lone request on an idle pack runner"),
    "mixed": (_add_mixed, _mixed, "short queries and long documents in one queue, with the memory that they take"),
    "long_texts": (_add_long_texts, _long_texts, "one long text at a time, with the memory that it takes"),
}
