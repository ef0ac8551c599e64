"""What the reports print; the model stays."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from passes import PassManager, get_pass
from tests.passes.rewritten import model_of


def small() -> onnx.ModelProto:
    model = model_of(
        "g (float[2,3] x, int64[batch,seq] ids) => (float[2,4] y, int64[batch,seq] z) "
        "{ a = MatMul (x, W) y = Relu (a) z = Neg (ids) }",
        {"W": np.zeros((3, 4), np.float32)},
    )
    model.producer_name = "hand"
    return model


def test_the_overview_says_what_is_in_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    manager = PassManager(["model_overview"])
    before = small()
    after = manager.run(before)
    assert [node.op_type for node in after.graph.node] == ["MatMul", "Relu", "Neg"]
    assert not manager.records[0].result.modified
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "producer hand",
        "opset ai.onnx 17, ai.graphcore 1, com.microsoft 1, local 1",
        "inputs 2, outputs 2",
        "weights 0.0 MB in 1 tensors",
        "nodes 3",
        "MatMul 1",
        "Neg 1",
        "Relu 1",
    ]


def test_inputs_and_outputs_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    PassManager(["model_io_info_stat"]).run(small())
    assert capsys.readouterr().out.splitlines() == [
        "input x float [2, 3] 24 bytes",
        "input ids int64 [batch, seq] ? bytes",
        "2 inputs, ? bytes",
        "output y float [2, 4] 32 bytes",
        "output z int64 [batch, seq] ? bytes",
        "2 outputs, ? bytes",
    ]


@pytest.mark.parametrize("name", ["model_overview", "model_io_info_stat"])
def test_the_lines_may_be_logged(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "poprt"):
        get_pass(name, use_print=False).run(small())
    assert capsys.readouterr().out == ""
    assert len(caplog.messages) >= 6
