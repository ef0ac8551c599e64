"""Sample data for tokens that are arrays, for samples and for runs: what checks, tries and calibrates uses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes.packed_model import PackedModel
from passes.parted import PartedModel
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.isolation import try_isolation
from poprt.runtime import PackRunner, PackRunnerConfig
from poprt.sample_data import model_inputs
from poprt.verify import verify
from poprt.verify_packed import pack_samples
from tests.passes.rewrites import copy_of
from tests.poprt.runtime.test_vector_tokens import alone
from tests.poprt.runtime.vector_models import (
    COLUMNS,
    HIDDEN,
    LAYOUTS,
    MOST,
    converted,
    encoder,
    samples,
    shapes,
    with_whole_inputs,
)

UNPACKED = [layout for layout in LAYOUTS if layout != "within_rows"]


def spoilt(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with another matrix for what the vectors hold."""
    other = copy_of(model)
    tensor = next(tensor for tensor in other.graph.initializer if tensor.name == "B")
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), "B"))
    return other


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_check_passes_a_packed_model_and_fails_one_with_other_weights(layout: str) -> None:
    model = encoder(pooled=layout != "within_rows")
    packed = converted(layout, model)
    assert verify(model, packed).passed
    assert not verify(spoilt(model), packed).passed


@pytest.mark.parametrize("layout", UNPACKED)
def test_the_check_feeds_rows_of_samples_and_values_of_runs(layout: str) -> None:
    model = with_whole_inputs(encoder(), "batch")
    packed = with_whole_inputs(converted(layout, encoder()), MOST)
    assert verify(model, packed).passed
    assert not verify(spoilt(model), packed).passed


def test_samples_of_one_case_have_the_values_of_their_run_in_common() -> None:
    packed = with_whole_inputs(converted("across_rows", encoder()), MOST)
    packing = PackedModel.read(packed)
    assert packing is not None
    originals = model_inputs(with_whole_inputs(encoder(), "batch"))
    case = pack_samples(packing, originals, model_inputs(packed), np.random.default_rng(0))
    scales = {float(feeds["scale"]) for feeds in case.original_feeds}
    assert scales == {float(case.converted_feeds["scale"])}
    users = [feeds["user"][0] for feeds in case.original_feeds]
    np.testing.assert_array_equal(case.converted_feeds["user"][: len(users)], np.stack(users))
    assert not case.converted_feeds["user"][len(users) :].any()


@pytest.mark.parametrize("layout", UNPACKED)
def test_whether_samples_are_independent_is_tried(layout: str) -> None:
    packed = with_whole_inputs(converted(layout, encoder()), MOST)
    packing = PackedModel.read(packed)
    assert packing is not None
    trial = try_isolation(PartedModel(packed), packing, model_inputs(with_whole_inputs(encoder(), "batch")))
    assert not trial.not_tried
    assert trial.findings
    assert not trial.fell_back


def test_int8_is_measured_on_vectors_too() -> None:
    options: dict[str, Any] = {"precision": "int8", "disable_progress_bar": True, **LAYOUTS["across_rows"]}
    model = Converter(input_shape=shapes(), check=True, **options).convert(copy_of(encoder()))
    (sample,) = samples([COLUMNS])
    out = {"hidden": np.zeros((COLUMNS, HIDDEN), np.float32)}
    with PackRunner(Compiler.compile(model), PackRunnerConfig(token_budget=64), threads=1) as runner:
        runner.execute(sample, out)
    (want,) = alone(encoder(), [sample])
    a, b = out["hidden"].ravel(), want["hidden"].ravel()
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.99
