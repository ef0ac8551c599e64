"""Running models the way results are judged: by onnxruntime with its optimiser off, each sample alone and unpadded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from poprt.compiler.lower_int8 import with_exact_products

Arrays = dict[str, NDArray[Any]]


def session(model: onnx.ModelProto | bytes | str | Path, *, threads: int = 1) -> ort.InferenceSession:
    """A session on the CPU that runs the graph as it is written."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return ort.InferenceSession(
        source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
    )


def run(
    model: onnx.ModelProto | bytes | str | Path | ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]
) -> Arrays:
    """Run once; outputs by name. Feeds that the model does not take are left out."""
    engine = model if isinstance(model, ort.InferenceSession) else session(model)
    input_names = {value.name for value in engine.get_inputs()}
    names = [value.name for value in engine.get_outputs()]
    results = engine.run(names, {name: array for name, array in feeds.items() if name in input_names})
    return dict(zip(names, results, strict=True))


def run_exactly(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """:func:`run`, for a model with int8 weights: exact too on a CPU whose kernel for them may overflow.

    There the weights are unsigned by the compiler's function, which ``tests/poprt/test_lower_int8.py`` holds against
    numpy.
    """
    return run(with_exact_products(model), feeds)


def one_by_one(
    model: onnx.ModelProto | bytes | str | Path | ort.InferenceSession, samples: Sequence[Mapping[str, NDArray[Any]]]
) -> list[Arrays]:
    """The reference: run each sample alone, as a batch of one, unpadded.

    Args:
        model: with inputs [batch, sequence].
        samples: inputs [length] by name.

    Returns:
        For each sample its outputs without the batch axis.
    """
    engine = model if isinstance(model, ort.InferenceSession) else session(model)
    return [
        {name: array[0] for name, array in run(engine, {key: value[None] for key, value in sample.items()}).items()}
        for sample in samples
    ]


def random_samples(
    lengths: Sequence[int], *, vocab: int = 1000, types: int = 2, seed: int = 0, position_ids: bool = False
) -> list[Arrays]:
    """Samples that mean something: ids in the vocabulary and above the special ones, masks of ones, segments 0 then 1.

    Returns:
        For each length L: input_ids, attention_mask, token_type_ids and, where asked, position_ids, int64 [L].
    """
    rng = np.random.default_rng(seed)
    samples = []
    for length in lengths:
        sample: Arrays = {
            "input_ids": rng.integers(5, vocab, length),
            "attention_mask": np.ones(length, np.int64),
            "token_type_ids": (np.arange(length) >= rng.integers(1, length + 1)).astype(np.int64) % types,
        }
        if position_ids:
            sample["position_ids"] = np.arange(length)
        samples.append(sample)
    return samples


def padded(samples: Sequence[Mapping[str, NDArray[Any]]], length: int | None = None) -> Arrays:
    """The samples as one batch, filled up with zeros to ``length`` or to the longest sample."""
    width = length or max(len(array) for sample in samples for array in sample.values())
    return {
        name: np.stack([np.pad(sample[name], (0, width - len(sample[name]))) for sample in samples])
        for name in samples[0]
    }
