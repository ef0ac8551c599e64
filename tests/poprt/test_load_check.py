"""A converted model is handed over when onnxruntime loads it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from passes.parted import PartedModel
from poprt.converter import Converter
from poprt.errors import PoprtError
from poprt.load_check import check_loads
from poprt_cli.main import cli

_HEADER = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> agraph (float[N, 4] x) => (float[N, 4] y)'


def _conv_of_wrong_rank() -> onnx.ModelProto:
    """A model that onnx can check and no engine can load: the strides are for another rank."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> agraph (float[1, 1, 8] x) => (float[1, 1, 8] y)'
        "{ y = Conv <kernel_shape = [1], strides = [1, 1]> (x, w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "w"))
    return model


@pytest.mark.parametrize("make", [_conv_of_wrong_rank, lambda: _break_last(_relu())], ids=["Conv", "Relu"])
def test_what_the_engine_refuses_is_refused(make: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(PoprtError, match="--skip_check_load"):
        check_loads(PartedModel(make()))


def _break_last(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[-1].attribute.append(helper.make_attribute("no_such_attribute", 1))
    return model


def _relu() -> onnx.ModelProto:
    return onnx.parser.parse_model(_HEADER + "{ y = Relu (x) }")


def test_a_conversion_that_breaks_the_model_fails() -> None:
    with pytest.raises(PoprtError, match="does not load the converted model"):
        Converter(used_passes=[_break_last]).convert(_relu())


def test_the_advice_of_the_message_works() -> None:
    converted = Converter(used_passes=[_break_last], skip_check_load=True).convert(_relu())
    assert converted.graph.node[-1].attribute[-1].name == "no_such_attribute"


def test_large_weights_are_given_to_the_engine_and_stay_in_the_model() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 400)).astype(np.float32)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> agraph (float[N, 4] x) => (float[N, 400] y) { y = MatMul (x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    converted = Converter().convert(model)
    np.testing.assert_array_equal(numpy_helper.to_array(converted.graph.initializer[0]), weight)


def test_operators_of_a_library_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = onnx.parser.parse_model(_HEADER + "{ z = own.Special (x) y = Relu (z) }")
    with caplog.at_level(logging.WARNING, "poprt"):
        converted = Converter().convert(model)
    assert "own.Special" in caplog.text
    assert [node.op_type for node in converted.graph.node] == ["Special", "Relu"]


def test_the_command_writes_nothing_that_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(_conv_of_wrong_rank().SerializeToString())
    out = tmp_path / "out"
    command = ["-i", str(path), "--output_dir", str(out), "--output_model", "converted.onnx"]
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code != 0
    assert not (out / "converted.onnx").exists()
    written = CliRunner().invoke(cli, [*command, "--skip_check_load"])
    assert written.exit_code == 0, written.output
    assert (out / "converted.onnx").exists()
