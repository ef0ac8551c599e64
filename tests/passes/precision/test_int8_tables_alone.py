"""int8 where only tables are left to quantise: what was done is said, and what it cost is warned of."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from passes.errors import RewriteError
from passes.manager import PassManager
from passes.precision import float_to_int8
from passes.precision.float_to_int8 import FloatToInt8
from passes.reference_session import reference_session
from poprt.converter import Converter
from poprt.errors import PoprtError
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


#: The sine of large numbers tips with the least change; a weight that the engine folds makes the change.
SENSITIVE = "large = Mul (e, big)  y = Sin (large)"


def warnings_of(body: str, caplog: pytest.LogCaptureFixture, **options: object) -> tuple[str, dict[str, object]]:
    manager = PassManager([FloatToInt8(data=lambda _: {"ids": _IDS}, **options)])
    with caplog.at_level(logging.WARNING, logger="poprt"):
        manager.run(lookup(body))
    return caplog.text, manager.records[0].result.details


def test_beside_a_low_cosine_stands_what_the_optimiser_alone_does(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def run_optimised(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append({tensor.name: tensor.data_type for tensor in model.graph.initializer})
        outputs = reference_session(model).run(["y"], feeds)
        return {"y": outputs[0] + 1}  # an engine that is far off

    text, details = warnings_of(SENSITIVE, caplog, run_optimised=run_optimised)
    assert seen == [{"T": onnx.TensorProto.FLOAT, "big": onnx.TensorProto.FLOAT}]  # the model before int8, with weights
    alone = float(str(details["cosine of y by the optimiser alone"]))
    assert 0 < alone < 0.9
    assert f"onnxruntime's optimiser alone moves this one to a cosine of {alone:.3f}" in text
    assert "--check" not in text


def test_the_optimiser_is_not_run_where_int8_does_well(caplog: pytest.LogCaptureFixture) -> None:
    def run_optimised(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise AssertionError

    text, details = warnings_of("y = Relu (e)", caplog, run_optimised=run_optimised)
    assert not text
    assert "cosine of y by the optimiser alone" not in details


@pytest.mark.parametrize("cause", ["fails", "too large"])
def test_where_the_optimiser_cannot_be_run_the_warning_names_check(
    cause: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_optimised(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert cause == "fails"
        raise RuntimeError(cause)

    if cause == "too large":
        monkeypatch.setattr(float_to_int8, "_LARGEST_KEPT", 1000)
    text, _ = warnings_of(SENSITIVE, caplog, run_optimised=run_optimised)
    assert "--check tells what onnxruntime's optimiser alone moves" in text


def test_a_conversion_tells_what_the_optimiser_alone_does(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="poprt"):
        Converter(precision="int8").convert(lookup(SENSITIVE))
    assert "onnxruntime's optimiser alone moves this one to a cosine of 1.000" in caplog.text


def test_weights_of_4_bits_count_as_such() -> None:
    model = lookup("W = DequantizeLinear (N, scale)  y = MatMul (e, W)")
    model.opset_import[0].version = 21
    model.graph.initializer.append(onnx.helper.make_tensor("N", onnx.TensorProto.INT4, [64, 64], [1] * 4096))
    manager = PassManager([FloatToInt8()])
    manager.run(model)
    before, _ = map(int, str(manager.records[0].result.details["bytes of weights"]).split(" -> "))
    assert before == 2000 * 64 * 4 + 64 * 64 // 2 + 4


def test_a_model_that_says_that_it_is_quantised_is_left_alone() -> None:
    once = PassManager([FloatToInt8()]).run(lookup("y = Relu (e)"))
    manager = PassManager([FloatToInt8()])
    manager.run(once)
    assert [str(refusal) for refusal in manager.records[0].result.refusals] == ["the model: it is quantised already"]


def test_a_table_that_is_not_finite_stays_float() -> None:
    model = lookup("y = Relu (e)")
    table = model.graph.initializer[0]
    values = numpy_helper.to_array(table).copy()
    values[3, 5] = np.inf
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    manager = PassManager([FloatToInt8(data=lambda _: {"ids": _IDS})])
    manager.run(model)
    assert "is not finite" in " ".join(map(str, manager.records[0].result.refusals))


def test_data_that_the_model_cannot_take_are_an_error_of_the_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PoprtError("input 'ids' has 2000 values too many")

    monkeypatch.setattr("poprt.conversion_steps.sample_case", fail)
    with pytest.raises(RewriteError, match="input 'ids' has 2000 values too many"):
        Converter(precision="int8").convert(lookup("y = Relu (e)"))
