"""The commands ``serve`` and ``encode`` of ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.options import add_pairs, count, duration, share
from benchmarks.output import Output

#: As in sources.TEXTS and encoders.BACKENDS; written down so that the help needs no engine. A test compares them.
TEXTS = ("queries", "short", "demo")
BACKENDS = ("torch", "onnx", "openvino")
INFINITY = Path(".venv/infinity/bin/infinity_emb")
_FOLDER_HELP = "of sentence-transformers, with onnx/model.onnx; without one the real MiniLM is written"


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help=_FOLDER_HELP)
    parser.add_argument("--texts", choices=TEXTS, default="short", help="6, 17 or 36 tokens on average")
    parser.add_argument("--seconds", type=duration, default=30.0, help="of one load; p99.9 needs 60 and more")
    parser.add_argument("--peak_seconds", type=duration, default=3.0, help="of a slice at the peak")
    parser.add_argument("--pairs", type=count, default=7, help="pairs of slices at the peak")
    parser.add_argument(
        "--clients", nargs="+", type=count, default=[1, 4, 16, 64, 256], help="that the peak is looked for with"
    )
    parser.add_argument(
        "--loads", nargs="+", type=share, default=[0.3, 0.5, 0.7, 0.9], help="fractions of a server's own peak"
    )
    parser.add_argument("--infinity", type=Path, default=INFINITY, help="the command of infinity-emb")


def _serve(options: argparse.Namespace, output: Output) -> None:
    from benchmarks.serve.measure import Budget, measure_servers  # here: they need what the others do not
    from benchmarks.serve.report import serve_tables
    from benchmarks.serve.sources import prepare

    budget = Budget(options.seconds, options.peak_seconds, options.pairs, tuple(options.clients), tuple(options.loads))
    with tempfile.TemporaryDirectory() as work:
        sources = prepare(options.folder, Path(work), output.line)
        result = measure_servers(sources, options.infinity, options.texts, budget, output.line)
    output.finish("serve", serve_tables(result), result)


def _add_encode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help=_FOLDER_HELP)
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS), help="6, 17 and 36 tokens on average")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    add_pairs(parser, 1.0)


def _encode(options: argparse.Namespace, output: Output) -> None:
    from benchmarks.serve.encode import measure_encode
    from benchmarks.serve.report import encode_table
    from benchmarks.serve.sources import prepare

    with tempfile.TemporaryDirectory() as work:
        sources = prepare(options.folder, Path(work), output.line)
        rates = measure_encode(sources, options.texts, options.backends, options.seconds, options.pairs, output.line)
    output.finish("encode", [encode_table(rates)], rates)


_Run = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, Output], None], str]
#: By name: adds the options, runs, and says what it does.
COMMANDS: dict[str, _Run] = {
    "serve": (_add_serve, _serve, "the server against others, over HTTP: peak, CPU time, latency"),
    "encode": (_add_encode, _encode, "TextModel.encode against sentence-transformers with each of its backends"),
}
