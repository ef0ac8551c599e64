"""Pack a real sentence encoder, search with it, and compare it with padding: ``python -m examples.demo``.

The model is all-MiniLM-L6-v2. It is converted with packing and fp16 weights, compiled into one file, and run on a few
hundred English texts of 3 to 242 tokens that arrive one by one. Every baseline is the original model in plain
onnxruntime, with all its optimisations and the same number of threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import Array, Contender, OnnxRuntime, Packed, Padded, Result, sample_length
from examples.timing import measure
from models.minilm import MiniLM, MiniLMNotFoundError, load_minilm
from models.texts import Text, texts
from poprt import runtime
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.engine.cpu import usable_cores

ROWS, COLUMNS = 16, 256
MAX_VALID_NUM = 128  # most texts in one pack of 16 x 256 tokens
QUERIES = ("why is my bread dense", "my train was cancelled", "slow SQL query", "how to fall asleep faster")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"), help="where the executable goes")
    parser.add_argument("--texts", type=int, default=0, help="use only so many texts; 0 is all")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is run; the median counts")
    options = parser.parse_args(arguments)
    console, start = Console(highlight=False), time.perf_counter()

    def report(line: str) -> None:
        console.print(f"[dim]{time.perf_counter() - start:6.1f} s[/dim]  {line}")

    try:
        minilm = load_minilm()
    except MiniLMNotFoundError as error:
        parser.exit(1, f"{error}\n")
    report("MiniLM loaded: 6 layers, 22.7 million parameters, real weights")
    library = texts()[: options.texts or None]
    executable = build(minilm, options.output_dir, report)
    samples = minilm.tokenize([item.text for item in library])
    engine = OnnxRuntime(minilm.model.SerializeToString())
    runner = runtime.Runner(str(executable), runtime.PackRunnerConfig(timeout_microseconds=2000))
    contenders = make_contenders(engine, runner)
    for contender in contenders:
        contender.run(samples[: 2 * ROWS])  # warm up: thread pools and memory arenas
    report(f"{len(library)} texts, every way warmed up on {usable_cores()} cores")
    seconds, results = measure(contenders, samples, options.rounds, report)
    alone, ours = (embeddings(results[contender.name]) for contender in (contenders[0], contenders[-1]))
    console.print(neighbours(library, ours))
    console.print(comparison(contenders, seconds, [sample_length(sample) for sample in samples]))
    difference = np.abs(ours - alone).max(axis=1)
    console.print(
        f"Largest difference between a packed text and the original model on that text alone, unpadded: "
        f"[bold]{difference.max():.1e}[/bold] (median text {np.median(difference):.1e}; embeddings have length 1).\n"
        "The packed way pads nothing in the projections and feed-forward layers; "
        "attention alone pads, to the longest text of its pack."
    )


def build(minilm: MiniLM, folder: Path, report: Callable[[str], None]) -> Path:
    """Convert with packing and fp16 weights, and compile into one file."""
    shape = [ROWS, COLUMNS]
    converter = Converter(
        input_shape={value.name: shape for value in minilm.model.graph.input},
        precision="fp16",
        pack_args={"max_valid_num": MAX_VALID_NUM, "segment_max_size": COLUMNS},
    )
    converted = converter.convert(minilm.model)
    report(f"converted: {len(minilm.model.graph.node)} nodes became {len(converted.graph.node)}, packed, fp16")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "executable.popef"
    Compiler.compile_and_export(converted, [value.name for value in converted.graph.output], str(path))
    before, after = minilm.model.ByteSize(), path.stat().st_size
    report(f"compiled: {path}, {after / 2**20:.0f} MiB (the fp32 model has {before / 2**20:.0f} MiB)")
    return path


def make_contenders(engine: OnnxRuntime, runner: runtime.Runner) -> list[Contender]:
    """The original model without padding first, three ways to pad, and the packed executable last."""
    return [
        Padded("one text at a time, unpadded", engine, 1),
        Padded(f"padded to {ROWS} x {COLUMNS}", engine, ROWS, columns=COLUMNS),
        Padded("padded to the longest of 16, in order of arrival", engine, ROWS),
        Padded("padded to the longest of 16, sorted by length", engine, ROWS, sort=True),
        Packed("packed with poprt, in order of arrival", runner),
    ]


def embeddings(results: Sequence[Result]) -> Array:
    """The embeddings of all texts, float32 [texts, hidden]."""
    return np.stack([result["embedding"] for result in results]).astype(np.float32)


def neighbours(library: Sequence[Text], vectors: Array) -> Table:
    """The two texts that lie nearest to each query."""
    table = Table(title="Nearest texts, from the packed model", title_justify="left")
    table.add_column("query", style="bold")
    table.add_column("cosine", justify="right")
    table.add_column("text")
    lines = [item.text for item in library]
    for query in (query for query in QUERIES if query in lines):
        likeness = vectors @ vectors[lines.index(query)]
        for index in np.argsort(-likeness)[1:3]:  # the first is the query itself
            table.add_row(query, f"{likeness[index]:.2f}", _shorten(lines[index]))
            query = ""
    return table


def comparison(contenders: Sequence[Contender], seconds: dict[str, float], lengths: Sequence[int]) -> Table:
    """Padding and throughput of each way, and how much faster the packed one is."""
    needed, ours = sum(lengths), seconds[contenders[-1].name]
    table = Table(title=f"{len(lengths)} texts, {needed} tokens, median throughput", title_justify="left")
    table.add_column("way")
    for title in ("padding", "texts/s", "packed is"):
        table.add_column(title, justify="right")
    for contender in contenders:
        taken = seconds[contender.name]
        table.add_row(
            contender.name,
            f"{1 - needed / contender.fed(lengths):.0%}",
            f"{len(lengths) / taken:.0f}",
            f"{taken / ours:.2f} x as fast" if contender is not contenders[-1] else "",
            style="bold green" if contender is contenders[-1] else "",
        )
    return table


def _shorten(line: str, length: int = 90) -> str:
    return line if len(line) <= length else line[: length - 1].rsplit(" ", 1)[0] + " …"


if __name__ == "__main__":
    main()
