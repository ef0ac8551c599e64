"""int8 where only tables are left to quantise: what was done is said, and what it cost is warned of."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from passes.manager import PassManager
from passes.precision.float_to_int8 import FloatToInt8
from poprt_cli.main import cli
from tests.passes.rewrites import parse

_IDS = np.arange(64).reshape(4, 16)


def lookup(body: str) -> onnx.ModelProto:
    model = parse(f"g (int64[b, s] ids) => (float[b, s, 64] y) {{ e = Gather (T, ids)  {body} }}", opset=17)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(2000, 64)).astype(np.float32)
    levels = rng.integers(-127, 128, (64, 64)).astype(np.int8)
    values = {"T": table, "L": levels, "scale": np.float32(0.01), "one": np.float32(1), "big": np.float32(1e4)}
    used = {name for node in model.graph.node for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items() if name in used]
    model.graph.initializer.extend(tensors)
    return model


def test_tables_that_were_quantised_are_said_beside_products_that_were_not(tmp_path: Path) -> None:
    onnx.save(lookup("W = DequantizeLinear (L, scale)  y = MatMul (e, W)"), str(tmp_path / "m.onnx"))
    words = ["-i", str(tmp_path / "m.onnx"), "--output_dir", str(tmp_path), "--precision", "int8"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    said = (
        "int8: table lookups quantised: 1; no product was quantised; products by constant matrices: 1 already quantised"
    )
    assert result.stdout.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("body", "warned"),
    [("y = Relu (e)", False), ("large = Mul (e, big)  y = Sin (large)", True)],
    ids=["little", "much"],
)
def test_a_low_cosine_is_warned_of(body: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="poprt"):
        PassManager([FloatToInt8(data=lambda _: {"ids": _IDS})]).run(lookup(body))
    messages = [record.getMessage() for record in caplog.records]
    assert any("int8 moves output 'y' to a cosine of" in text for text in messages) == warned
