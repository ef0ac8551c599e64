"""Compare padding with both layouts of packing on one BERT: ``python -m examples.packed_bert.compare``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from examples.packed_bert.ways import Arrays, Way, latencies, length_of, offline, online, padded
from models.bert import BertConfig, build_bert
from poprt import runtime
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.engine.plain import plain_session


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, convert, run and compare."""
    options = read_options(arguments)
    console = Console(highlight=False)
    config = BertConfig(
        layers=options.layers, hidden=options.hidden, heads=options.heads, intermediate=4 * options.hidden
    )
    model = build_bert(config)
    samples = make_samples(options.samples, options.columns, config.vocab, options.seed)
    console.print(
        f"BERT for questions and answers, {options.layers} layers of {options.hidden}; {options.samples} samples of "
        f"{min(map(length_of, samples))} to {max(map(length_of, samples))} tokens; {options.precision}"
    )
    expected = alone(model, samples)
    ways = make_ways(model, options)
    table = Table(title=f"{options.rows} rows of {options.columns} tokens", title_justify="left")
    table.add_column("way")
    for title in ("samples/s", "padding", "mean ms", "p99 ms", "max difference"):
        table.add_column(title, justify="right")
    for way in ways:
        table.add_row(way.name, *measure(way, samples, expected, options))
    console.print(table)
    console.print(
        "padding: share of the computed tokens that belong to no sample.   mean, p99: latency of one request while "
        f"{options.clients} threads send.\nmax difference: to the original model on the sample alone, unpadded, in "
        "onnxruntime without optimisation."
    )


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.packed_bert.compare", description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch or pack")
    parser.add_argument("--columns", type=int, default=256, help="tokens of a row, and of the longest sample")
    parser.add_argument("--max_valid_num", type=int, default=40, help="most samples in one pack")
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--clients", type=int, default=16, help="threads that send requests when latency is measured")
    parser.add_argument("--timeout_microseconds", type=int, default=2000, help="longest wait for a fuller pack")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp16")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def make_samples(count: int, longest: int, vocab: int, seed: int) -> list[Arrays]:
    """Random samples whose lengths are normal around half the longest, and clipped."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.normal(longest / 2, longest / 2, count).astype(int), 1, longest)
    return [
        {
            "input_ids": rng.integers(0, vocab, length, np.int32),
            "attention_mask": np.ones(length, np.int32),
            "token_type_ids": (np.arange(length) >= length // 3).astype(np.int32),
            "position_ids": np.arange(length, dtype=np.int32),
        }
        for length in lengths
    ]


def make_ways(model: onnx.ModelProto, options: argparse.Namespace) -> list[Way]:
    """Convert the model three times and set up the ways to run the results."""
    rows, columns, most = options.rows, options.columns, options.max_valid_num
    shapes = {value.name: [rows, columns] for value in model.graph.input}

    def build(**keywords: Any) -> runtime.Executable:
        converter = Converter(input_shape=shapes, precision=options.precision, **keywords)
        return Compiler.compile(converter.convert(model))

    across = build(pack_args={"max_valid_num": most, "segment_max_size": columns})
    within = build(used_passes="insert_attention_mask")

    def config(algorithm: runtime.PackAlgorithm = runtime.PackAlgorithm.next_fit) -> runtime.PackRunnerConfig:
        config = runtime.PackRunnerConfig(timeout_microseconds=options.timeout_microseconds, max_valid_num=most)
        config.algorithm = algorithm
        return config

    return [
        padded(build(), rows, columns),
        offline("across rows, offline", across, rows, columns, most, across=True),
        online("across rows, online", across, config()),
        offline("within rows, offline", within, rows, columns, most, across=False),
        *(online(f"within rows, online, {a.name}", within, config(a)) for a in runtime.PackAlgorithm),
    ]


def alone(model: onnx.ModelProto, samples: Sequence[Arrays]) -> list[Arrays]:
    """The original model's results for each sample alone, unpadded, as the graph is written."""
    session = plain_session(model.SerializeToString(), optimise=False)
    inputs, names = [item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()]
    answers = []
    for sample in samples:
        results = session.run(names, {name: sample[name][None].astype(np.int64) for name in inputs})
        answers.append({name: array[0] for name, array in zip(names, results, strict=True)})
    return answers


def measure(way: Way, samples: list[Arrays], expected: list[Arrays], options: argparse.Namespace) -> list[str]:
    """The cells of a way's row in the table."""
    way.run(samples[: options.rows])  # warm up
    start = time.perf_counter()
    done = way.run(samples)
    seconds = time.perf_counter() - start
    waited = latencies(way, samples, options.clients, options.columns)
    if way.served is not None:
        way.served.close()
    difference = max(
        float(np.abs(got[name] - want[name]).max())
        for got, want in zip(done.results, expected, strict=True)
        for name in want
    )
    waste = 1 - sum(map(length_of, samples)) / done.computed
    times = [f"{np.mean(waited) * 1e3:.1f}", f"{np.quantile(waited, 0.99) * 1e3:.1f}"] if waited else ["", ""]
    return [f"{len(samples) / seconds:.0f}", f"{waste:.0%}", *times, f"{difference:.1e}"]


if __name__ == "__main__":
    main()
