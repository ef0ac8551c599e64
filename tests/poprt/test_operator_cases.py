"""ONNX's own operator cases through a default conversion: models of every operator, with data."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as operator_cases

from poprt.converter import Converter
from tests.numerics import session

#: Cases that cannot come out the same, and why.
EXCUSED = {
    "test_bitcast_int64_to_float64": "its int64 input holds bit patterns beyond int32, which inputs become",
    "test_if_opt": "onnx-graphsurgeon cannot export optional types",
    "test_scan_sum": "onnx's version converter leaves Scan of opset 8 in its old form",
}
EVERY = 10


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    with np.errstate(all="ignore"):
        every_case = sorted(operator_cases.collect_testcases(None), key=lambda case: str(case.name))
    return [case for case in every_case if case.name not in EXCUSED][::EVERY]


def run(model: onnx.ModelProto, arrays: list[Any]) -> list[Any] | None:
    """Outputs, or None where the engine lacks the operator or takes no such data."""
    try:
        engine = session(model)
        feeds = {value.name: np.asarray(array) for value, array in zip(engine.get_inputs(), arrays, strict=True)}
        return list(engine.run(None, feeds))
    except Exception:  # onnxruntime's exceptions share no base class of their own
        return None


def narrowed(model: onnx.ModelProto, arrays: list[Any]) -> list[Any]:
    """The data as the converted model takes it: int64 became int32."""
    types = [value.type.tensor_type.elem_type for value in model.graph.input]
    return [
        np.asarray(array).astype(np.int32)
        if kind == onnx.TensorProto.INT32 and np.asarray(array).dtype == np.int64
        else array
        for kind, array in zip(types, arrays, strict=True)
    ]


def same(expected: Any, got: Any) -> bool:
    if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "biuf":
        return str(expected) == str(got)
    return bool(np.allclose(expected.astype(np.float64), got.astype(np.float64), rtol=1e-4, atol=1e-5, equal_nan=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_default_conversion_keeps_the_result_of_every_operator(cases: list[Any]) -> None:
    wrong, compared = [], 0
    for case in cases:
        arrays = list(case.data_sets[0][0])
        expected = run(case.model, arrays)
        if expected is None:
            continue
        compared += 1
        converted = Converter().convert(case.model)
        got = run(converted, narrowed(converted, arrays))
        if got is None or not all(map(same, expected, got)):
            wrong.append(case.name)
    assert compared > 100
    assert not wrong
