"""Weights rounded with error feedback: what it saves on real data, and when plain rounding stays."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from passes.precision.float_to_int8 import METADATA_KEY, FloatToInt8
from passes.precision.int8_feedback import moments, round_with_feedback
from passes.precision.int8_rows import Rows
from passes.precision.int8_values import quantise
from tests.numerics import run, run_exactly
from tests.passes.precision.int8_models import RNG, apply, one_product, relative, weight, with_weights

Floats = NDArray[np.float32]
FED_BACK = "weights rounded with error feedback"
_MIX = weight(8, 96)


def correlated(rows: int) -> Floats:
    """Activations whose 96 channels move together, by 8 causes."""
    return weight(rows, 8) @ _MIX + np.float32(0.05) * weight(rows, 96)


def product() -> onnx.ModelProto:
    return with_weights("g (float[n,96] x) => (float[n,80] y) { y = MatMul (x, w) }", {"w": weight(96, 80)})


def test_the_error_falls_where_channels_move_together() -> None:
    rows, other, matrix = correlated(400), correlated(100), weight(96, 80)
    plain, scale = quantise(matrix, 0)
    levels = round_with_feedback(matrix, scale, moments(rows), 127)
    assert np.abs(levels.astype(int)).max() <= 127
    exact = other @ matrix
    assert relative(exact, other @ (levels * scale)) < 0.5 * relative(exact, other @ (plain * scale))


def test_it_is_the_least_error_row_by_row_whatever_the_blocks() -> None:
    rows, matrix = correlated(400)[:, :70], weight(70, 64)
    scale = quantise(matrix, 0)[1]
    lower = moments(rows)
    levels = round_with_feedback(matrix, scale, lower, 127)
    errors = lower.T @ (matrix - levels * scale.astype(np.float64))
    half_steps = 0.5 * np.diagonal(lower)[:, None] * scale
    inside = np.abs(levels.astype(int)) < 127
    assert (np.abs(errors) <= half_steps * (1 + 1e-6))[inside].all()


def test_rows_that_do_not_move_leave_plain_rounding() -> None:
    matrix = weight(96, 80)
    plain, scale = quantise(matrix, 0)
    np.testing.assert_array_equal(
        round_with_feedback(matrix, scale, moments(np.zeros((4, 96), np.float32)), 127), plain
    )


def test_real_data_is_fed_back_and_random_data_is_not() -> None:
    model, x = product(), correlated(400)
    real, result = apply(model, data=lambda _: {"x": x})
    assert result.details[FED_BACK] == 1
    step = FloatToInt8().with_data(lambda _: {"x": x}, lambda *_: {})
    random = step.run(onnx.ModelProto.FromString(model.SerializeToString()))
    notes = [json.loads(p.value) for m in (real, random) for p in m.metadata_props if p.key == METADATA_KEY]
    assert [(note["feedback"], note["data"]) for note in notes] == [(1, "real"), (0, "random")]
    other = correlated(100)
    expected = run(model, {"x": other})["y"]
    with_feedback, without = (relative(expected, run_exactly(m, {"x": other})["y"]) for m in (real, random))
    assert with_feedback < 0.9 * without


def test_plain_rounding_stays_where_the_rows_that_judge_are_not_served() -> None:
    model, x = one_product(), RNG.standard_normal((2, 20, 96)).astype(np.float32)
    assert FED_BACK not in apply(model, data=lambda _: {"x": x})[1].details
    assert FED_BACK not in apply(product(), data=lambda _: {"x": correlated(400)}, feedback=False)[1].details


@pytest.mark.parametrize("place", ["rows", "weight"])
def test_what_is_not_finite_is_not_fed_back(place: str) -> None:
    model, x = product(), correlated(40)
    if place == "rows":
        x[2, 5] = np.nan
    else:
        w = weight(96, 80)
        w[2, 5] = np.inf
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    assert FED_BACK not in apply(model, data=lambda _: {"x": x})[1].details


def test_rows_are_parted_into_those_that_tell_and_those_that_judge() -> None:
    rows = Rows.parted(np.arange(40, dtype=np.float32)[:, None])
    assert rows.judged.ravel().tolist() == list(range(3, 40, 4))
    assert sorted([*rows.told.ravel(), *rows.judged.ravel()]) == list(range(40))
    few = Rows.parted(np.ones((3, 5), np.float32))
    assert few.told is few.judged


def test_the_last_of_several_runs_judges_the_outputs_alone() -> None:
    model, calm, wild = one_product(), weight(64, 96)[None], weight(8, 96)[None]
    wild[..., 0] = 1e4
    asked: list[Any] = []

    def data(signature: onnx.ModelProto) -> list[dict[str, Floats]]:
        asked.append(signature)
        return [{"x": calm[:, :32]}, {"x": calm[:, 32:]}, {"x": wild}]

    _, result = apply(model, data=data, max_error=0.02)
    assert result.counts == {"products in int8": 1}
    expected = run(model, {"x": wild})["y"]
    got = run_exactly(apply(model, data=data)[0], {"x": wild})["y"]
    assert float(result.details["largest difference of y"]) == pytest.approx(np.abs(expected - got).max(), rel=0.01)
