"""Constants of types that numpy lacks (bfloat16, float8) go through a conversion, declared or computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from poprt.converter import Converter
from tests.numerics import run
from tests.passes.rewrites import copy_of, parse

_KINDS = ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"]


def _model(name: str) -> onnx.ModelProto:
    """x plus a weight of this type, and plus a constant that a Cast gives and value_info declares."""
    kind = TensorProto.DataType.Value(name)
    model = parse(
        f"""g (float[2] x) => (float[2] y) {{
        wide = Cast <to = 1> (w)
        few = Constant <value = float[2] {{1, -2}}> ()
        narrow = Cast <to = {kind}> (few)
        back = Cast <to = 1> (narrow)
        h = Add (x, wide)
        y = Add (h, back) }}""",
        opset=19,
    )
    model.graph.initializer.append(helper.make_tensor("w", kind, [2], [3.0, 0.5]))
    model.graph.value_info.append(helper.make_tensor_value_info("narrow", kind, [2]))
    return model


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", _KINDS)
def test_they_are_carried_and_computed(name: str, precision: str) -> None:
    model = _model(name)
    converted = Converter(precision=precision).convert(copy_of(model))
    feeds = {"x": np.array([1, 2], np.float32)}
    np.testing.assert_array_equal(run(converted, feeds)["y"], run(model, feeds)["y"])
