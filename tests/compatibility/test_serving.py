"""Encoders of opset 11 served by many threads through a pack runner, as programs for PopRT do it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from poprt import runtime
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from tests.exports import FAMILIES
from tests.numerics import one_by_one, random_samples

ROWS, COLUMNS, CLIENTS = 4, 32, 14
TOLERANCE = 5e-3
OUTPUTS = ("start_logits", "end_logits")
PASSES = ["insert_attention_mask", "pre_scale", "fused_attention", "erf_gelu_pattern", "attention_padding"]


def samples_for(family: str, count: int = 42) -> list[dict[str, Any]]:
    """Texts of many lengths, without the inputs that the family lacks."""
    lengths = np.clip(np.random.default_rng(1).normal(14, 14, count), 1, COLUMNS).astype(int)
    samples = random_samples(lengths.tolist())
    return [
        {name: array for name, array in sample.items() if name != "token_type_ids" or FAMILIES[family].types}
        for sample in samples
    ]


def converted(model: onnx.ModelProto, **keywords: Any) -> onnx.ModelProto:
    shapes = {item.name: [ROWS, COLUMNS] for item in model.graph.input}
    return Converter(input_shape=shapes, precision="fp16", disable_progress_bar=True, **keywords).convert(model)


def single_row(algorithm: runtime.PackAlgorithm) -> runtime.PackRunnerConfig:
    config = runtime.PackRunnerConfig(timeout_microseconds=1500, max_valid_num=40, dynamic_input_name="input_ids")
    config.algorithm = algorithm
    config.enable_input_single_row_mode("attention_mask")
    return config


def asked_by_clients(runner: runtime.Runner, samples: list[dict[str, Any]], form: Callable[..., Any]) -> list[Any]:
    """Every client asks for each third sample of its own, waits for it, and goes on."""
    answers: list[Any] = [None] * len(samples)

    def client(number: int) -> None:
        for position in range(number, len(samples), CLIENTS):
            buffers = {name: np.zeros([1, COLUMNS], np.float16) for name in OUTPUTS}
            runner.execute(form(samples[position]), buffers)
            answers[position] = {name: buffer[0] for name, buffer in buffers.items()}

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def as_it_is(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: array.astype(np.int32)[None] for name, array in sample.items()}


def padded(sample: dict[str, Any]) -> dict[str, Any]:
    rows = {name: np.pad(array, (0, COLUMNS - len(array))) for name, array in sample.items()}
    return as_it_is(rows)


def check(answers: list[Any], model: onnx.ModelProto, samples: list[dict[str, Any]]) -> None:
    for answer, expected in zip(answers, one_by_one(model, samples), strict=True):
        for name, array in expected.items():
            np.testing.assert_allclose(answer[name][: len(array)], array, rtol=0, atol=TOLERANCE)


@pytest.mark.export
@pytest.mark.parametrize("algorithm", runtime.PackAlgorithm)
@pytest.mark.parametrize("family", ["bert", "albert", "roberta"])
def test_fourteen_threads_share_rows(
    family: str, algorithm: Any, exported: Callable[..., Path], tmp_path: Path
) -> None:
    model = onnx.load(exported(family, "qa", "torch-old", "eager", 11))
    options = CompilerOptions()
    options.num_io_tiles = 32
    options.partials_type = "half"
    packed = converted(model, used_passes=PASSES)
    Compiler.compile_and_export(packed.SerializeToString(), list(OUTPUTS), tmp_path / "executable.popef", options)
    samples = samples_for(family)
    with runtime.Runner(tmp_path / "executable.popef", single_row(algorithm)) as runner:
        check(asked_by_clients(runner, samples, as_it_is), model, samples)


@pytest.mark.export
@pytest.mark.parametrize("family", ["bert", "albert", "roberta"])
def test_padding_that_clients_send_is_taken_off(family: str, exported: Callable[..., Path]) -> None:
    model = onnx.load(exported(family, "qa", "torch-old", "eager", 11))
    config = single_row(runtime.PackAlgorithm.first_fit)
    names = [item.name for item in model.graph.input]
    config.enable_padding_remove_mode("attention_mask", [name for name in names if name != "attention_mask"])
    samples = samples_for(family, 14)
    executable = Compiler.compile(converted(model, used_passes=["insert_attention_mask"]), list(OUTPUTS))
    with runtime.Runner(executable, config) as runner:
        check(asked_by_clients(runner, samples, padded), model, samples)


@pytest.mark.export
@pytest.mark.parametrize("family", ["bert", "albert", "roberta"])
def test_an_encoder_that_nothing_packed_gives_each_sample_a_row(family: str, exported: Callable[..., Path]) -> None:
    model = onnx.load(exported(family, "qa", "torch-old", "eager", 11))
    samples = samples_for(family, 14)
    with runtime.Runner(Compiler.compile(converted(model)), single_row(runtime.PackAlgorithm.next_fit)) as runner:
        check(asked_by_clients(runner, samples, as_it_is), model, samples)
