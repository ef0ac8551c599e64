"""A batch size that an input does not take: the advice works."""

from __future__ import annotations

import onnx
import pytest

from passes.errors import RewriteError
from poprt.compiler import Compiler
from poprt.converter import Converter
from tests.passes.rewrites import copy_of, parse


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}


def test_a_state_whose_batch_is_another_axis() -> None:
    model = parse(
        """g (float[b, 8] x, float[2, b, 8] state) => (float[2, b, 8] y) { y = Add (x, state) }""",
        opset=17,
    )
    with pytest.raises(RewriteError, match=r"input 'state', axis 0.*add --input_shape state=2,4,8$"):
        Converter(batch_size=4).convert(copy_of(model))
    converted = Converter(batch_size=4, input_shape={"state": [2, 4, 8]}).convert(model)
    assert shapes(converted) == {"x": [4, 8], "state": [2, 4, 8]}


def test_a_state_of_which_more_is_open_is_asked_for_its_shape() -> None:
    model = parse("g (float[2, b, s] state) => (float[2, b, s] y) { y = Relu (state) }", opset=17)
    with pytest.raises(RewriteError, match=r"add its shape .* in numbers as --input_shape state="):
        Converter(batch_size=4).convert(model)


def test_a_model_of_fixed_shapes_keeps_them_and_its_executable_takes_any_batch() -> None:
    model = parse("g (float[1, 8] x) => (float[1, 8] y) { y = Relu (x) }", opset=17)
    with pytest.raises(RewriteError, match=r"its whole shape \[1, 8\] is fixed: leave out batch_size"):
        Converter(batch_size=4).convert(copy_of(model))
    assert Compiler.compile(Converter().convert(model)).manifest.batch_axes
