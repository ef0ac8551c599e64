"""Ways to run texts of many lengths through one encoder: padded in plain onnxruntime, or packed with poprt."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from poprt import runtime

Sample = dict[str, NDArray[np.int64]]
Embeddings = NDArray[Any]


@dataclass(frozen=True)
class Contender:
    """One way.

    Attributes:
        name: what it does.
        computed: tokens that it computes for all texts, padding included.
        run: embeds all texts; float [texts, hidden], in the order of the texts.
    """

    name: str
    computed: int
    run: Callable[[], Embeddings]


def plain_session(model: bytes, threads: int) -> ort.InferenceSession:
    """Plain onnxruntime on the CPU at its best: every optimisation on."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def padded(
    name: str,
    session: ort.InferenceSession,
    samples: Sequence[Sample],
    rows: int,
    *,
    columns: int = 0,
    sort: bool = False,
) -> Contender:
    """Batches of ``rows`` texts.

    Args:
        name: of the contender.
        session: the model with open dimensions.
        samples: inputs [length] by name.
        rows: texts in a batch.
        columns: pad every batch to [rows, columns]; 0 pads to the batch's longest text, and the last batch is short.
        sort: sort all texts by length first.
    """
    order = sorted(range(len(samples)), key=lambda index: _length(samples[index])) if sort else range(len(samples))
    batches = [order[start : start + rows] for start in range(0, len(samples), rows)]
    widths = [columns or max(_length(samples[index]) for index in batch) for batch in batches]
    computed = sum((rows if columns else len(batch)) * width for batch, width in zip(batches, widths, strict=True))

    def run() -> Embeddings:
        found: list[Any] = [None] * len(samples)
        for batch, width in zip(batches, widths, strict=True):
            feeds = _pad([samples[index] for index in batch], rows if columns else len(batch), width)
            for index, embedding in zip(batch, session.run(["embedding"], feeds)[0], strict=False):
                found[index] = embedding
        return np.stack(found)

    return Contender(name, computed, run)


def packed(name: str, runner: runtime.Runner, samples: Sequence[Sample]) -> Contender:
    """One request a text, all submitted at once; the runner lays them end to end."""
    output = next(desc for desc in runner.get_execute_outputs() if desc.name == "embedding")
    hidden, dtype = output.shape[-1], output.numpy_data_type()

    def run() -> Embeddings:
        found = np.zeros((len(samples), hidden), dtype)
        futures = [runner.execute_async(sample, {"embedding": row}) for sample, row in zip(samples, found, strict=True)]
        for future in futures:
            future.wait()
        return found

    return Contender(name, sum(_length(sample) for sample in samples), run)


def measure(
    contenders: Sequence[Contender], rounds: int, report: Callable[[str], None], budget: float = 90.0
) -> tuple[dict[str, float], dict[str, Embeddings]]:
    """Time the contenders in turn, so that a disturbance of the machine meets them all.

    Args:
        contenders: the ways to time.
        rounds: how often each is run.
        report: takes a line of progress after each run.
        budget: seconds after which no new round is begun; the first is always run to its end.

    Returns:
        The median seconds for all texts, and the embeddings, by contender.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    found: dict[str, Embeddings] = {}
    begin = time.perf_counter()
    for turn in range(rounds):
        if turn and time.perf_counter() - begin > budget:
            report(f"stopped after {turn} of {rounds} rounds: the machine is slow or busy")
            break
        for contender in contenders:
            start = time.perf_counter()
            found[contender.name] = contender.run()
            seconds[contender.name].append(time.perf_counter() - start)
            report(f"round {turn + 1} of {rounds}: {contender.name}, {seconds[contender.name][-1]:.1f} s")
    return {name: statistics.median(taken) for name, taken in seconds.items()}, found


def _length(sample: Sample) -> int:
    return len(sample["input_ids"])


def _pad(samples: Sequence[Sample], rows: int, width: int) -> Sample:
    feeds = {name: np.zeros((rows, width), np.int64) for name in samples[0]}
    for row, sample in enumerate(samples):
        for name, values in sample.items():
            feeds[name][row, : len(values)] = values
    return feeds
