"""Models whose opset cannot be raised: the node is named, and what its message asks for works."""

from __future__ import annotations

import onnx
import pytest

from passes.errors import RewriteError
from passes.shapes.convert_opset import ConvertOpset
from poprt.converter import Converter
from tests.passes.rewrites import copy_of, parse


def function_of(call: str, body: str, opset: int) -> onnx.ModelProto:
    """A graph that calls a function whose own attribute stands in its body."""
    return parse(
        f"""g (float[2,3] x) => (float[a, b] y) {{ y = local.F <{call}> (x) }}
        <domain: "local", opset_import: ["" : {opset}]> F <k> (x) => (y) {{ {body} }}""",
        opset=opset,
    )


def test_an_axis_that_is_the_functions_own_is_named() -> None:
    hidden = function_of("k = 1", "y = Softmax <axis : int = @k> (x)", 11)
    with pytest.raises(
        RewriteError, match=r"its axis is an attribute of the function.*; export the model with a newer"
    ):
        ConvertOpset(17).run(hidden)


def test_axes_that_are_the_functions_own_need_an_opset_that_reads_them() -> None:
    hidden = function_of("k = [1]", "y = ReduceSum <axes : ints = @k> (x)", 11)
    assert ConvertOpset(17).run(copy_of(hidden))


def test_a_scan_of_opset_8_is_named() -> None:
    model = parse(
        """g (float[1,2,3] x) => (float[1,2,3] y) {
            y = Scan <num_scan_inputs = 1, body = b (float[3] i) => (float[3] o) { o = Neg (i) }> (, x) }""",
        opset=8,
    )
    with pytest.raises(
        RewriteError, match=r"opset 8 scans each sample of a batch.*export the model with a newer opset"
    ):
        ConvertOpset(17).run(model)


def test_an_input_without_a_rank_is_told_to_give_its_shape() -> None:
    model = parse("g (float[n] x) => (float[n] y) { y = Relu (x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(RewriteError, match="input 'x' declares no rank, so it has no batch axis; give its input_shape"):
        Converter(batch_size=2).convert(model)
    converted = Converter(batch_size=2, input_shape={"x": [2]}).convert(model)
    assert converted.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
