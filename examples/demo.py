"""Pack a real sentence encoder, search with it, compare it with padding, serve it: ``python -m examples.demo``.

The model is all-MiniLM-L6-v2, from a folder as sentence-transformers saves it. It is packed into one file, with fp16
weights, and run on a few hundred English texts of 3 to 242 tokens that arrive one by one. Every baseline is the
original model in plain onnxruntime, with all its optimisations and the same number of threads. In the end a server
answers with that file.
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
from examples.packing import NAME, pack_minilm
from examples.serving import ask_server, curl_line
from examples.timing import comparison, measure
from models.minilm import MiniLMNotFoundError, load_minilm
from models.texts import Text, texts
from poprt import runtime
from poprt.engine.cpu import usable_cores
from poprt.text import TextModel

ROWS, COLUMNS = 16, 256
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
    executable = pack_minilm(options.output_dir, report)
    samples = minilm.tokenize([item.text for item in library])
    engine = OnnxRuntime(minilm.model.SerializeToString())
    model = TextModel(executable)
    contenders = make_contenders(engine, model.runner)
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
    expected = model.encode(QUERIES)
    model.close()
    serve(executable, expected, console, report)


def serve(executable: Path, expected: Array, console: Console, report: Callable[[str], None]) -> None:
    """Ask a server of the executable for the queries with the openai client, and say how to go on."""
    answered = ask_server(executable, NAME, QUERIES, report)
    console.print(
        "Largest difference between the server's answers and TextModel.encode: "
        f"{np.abs(answered - expected).max():.1e}. "
        f"{QUERIES[0]!r} is {np.round(answered[0, :4], 4).tolist()} and {answered.shape[1] - 4} more numbers.\n"
        "To try it yourself, run `make serve`, and in another terminal:"
    )
    console.print(curl_line(NAME, QUERIES[0]), style="bold", soft_wrap=True, markup=False)


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
    """The embeddings of all texts, float32 [texts, hidden]: each result is one vector, whatever its name."""
    return np.stack([next(iter(result.values())) for result in results]).astype(np.float32)


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


def _shorten(line: str, length: int = 90) -> str:
    return line if len(line) <= length else line[: length - 1].rsplit(" ", 1)[0] + " …"


if __name__ == "__main__":
    main()
