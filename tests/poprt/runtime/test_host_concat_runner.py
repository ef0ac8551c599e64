"""A hundred small inputs are joined by the pass, fed one by one, and split in the graph."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from poprt import Pass, runtime
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.errors import DamagedExecutableError, InputError, PoprtError
from poprt.executable import Executable
from tests.poprt.fused_models import adds

ROWS, NARROW, WIDE = 4, 96, 4
KEY = "HostConcatRunnerConfig"


def many_inputs() -> onnx.ModelProto:
    """y = columns @ w for 96 inputs [4, 1] and 4 inputs [4, 5]."""
    names = [f"narrow_{i}" for i in range(NARROW)] + [f"wide_{i}" for i in range(WIDE)]
    shapes = [(ROWS, 1)] * NARROW + [(ROWS, 5)] * WIDE
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    w = np.random.default_rng(0).normal(size=(NARROW + 5 * WIDE, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Concat", names, ["columns"], axis=1),
        helper.make_node("MatMul", ["columns", "w"], ["y"]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (ROWS, 3))
    graph = helper.make_graph(nodes, "g", inputs, [output], [numpy_helper.from_array(w, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


def data(runner: runtime.Runner, rows: int = ROWS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    infos = runner.get_execute_inputs()
    return {info.name: rng.uniform(0, 1, [rows, info.shape[1]]).astype(info.numpy_data_type()) for info in infos}


def answer(runner: runtime.Runner, inputs: dict[str, np.ndarray], rows: int = ROWS) -> np.ndarray:
    outputs = {"y": np.zeros((rows, 3), np.float32)}
    runner.execute_async(inputs, outputs).wait()
    return outputs["y"]


@pytest.fixture(scope="module")
def joined() -> Executable:
    families = [(TensorProto.FLOAT, (ROWS, 1)), (TensorProto.FLOAT, (ROWS, 5))]
    model = Pass.get_pass("apply_host_concat_split", families).run(copy.copy(many_inputs()))
    assert [value.name for value in model.graph.input] == ["host_concat_narrow_0", "host_concat_wide_0"]
    return Compiler.compile(model, ["y"])


def test_a_hundred_inputs_are_fed_as_two(joined: Executable, tmp_path: Path) -> None:
    """The program of PopRT's example: the light runner on the model as it is, this one on the joined model."""
    joined.save(tmp_path / "joined.popef")
    config = runtime.HostConcatRunnerConfig()
    config.check_package_hash = False
    config.ring_buffer_size_multiplier = 30
    config.timeout_ns = 100
    with (
        runtime.LightRunner(Compiler.compile(many_inputs())) as light,
        runtime.HostConcatRunner(str(tmp_path / "joined.popef"), config) as runner,
    ):
        inputs = data(light)
        assert [info.name for info in runner.get_execute_inputs()] == list(inputs)
        assert [info.name for info in runner.get_model_inputs()] == [spec.name for spec in joined.inputs]
        np.testing.assert_allclose(answer(runner, inputs), answer(light, inputs), rtol=1e-5, atol=1e-5)


def test_a_program_says_itself_what_is_joined(joined: Executable) -> None:
    hccs = {}
    for name, count, columns in (("narrow", NARROW, 1), ("wide", WIDE, 5)):
        hcc = runtime.HostConcatConfig()
        hcc.tensor_name = f"host_concat_{name}_0"
        hcc.input_tensor_names = [f"{name}_{i}" for i in reversed(range(count))]
        hcc.shape = [ROWS, columns]
        hcc.data_size_bytes = ROWS * columns * 4
        hccs[hcc.tensor_name] = hcc
    config = runtime.HostConcatRunnerConfig()
    config.host_concat_config = hccs
    with runtime.HostConcatRunner(joined, config) as runner, runtime.HostConcatRunner(joined) as usual:
        inputs = data(usual)
        narrow = {f"narrow_{i}": inputs[f"narrow_{NARROW - 1 - i}"] for i in range(NARROW)}
        wide = {f"wide_{i}": inputs[f"wide_{WIDE - 1 - i}"] for i in range(WIDE)}
        np.testing.assert_array_equal(answer(runner, {**narrow, **wide}), answer(usual, inputs))
        assert not np.array_equal(answer(runner, inputs), answer(usual, inputs))


def test_texts_kept_with_the_executable_come_before_the_models_own(joined: Executable) -> None:
    model = Pass.get_pass("apply_host_concat_split", [(1, (ROWS, 5))]).run(many_inputs())
    (said,) = [item.value for item in model.metadata_props if item.key == KEY]
    kept = Compiler.compile(model, None, CompilerOptions(opaque_blobs={KEY: said.replace("wide_1", "second")}))
    with runtime.HostConcatRunner(kept) as runner:
        names = [info.name for info in runner.get_execute_inputs()]
    assert names[NARROW:] == ["wide_0", "second", "wide_2", "wide_3"]


def test_any_number_of_rows_is_joined_along_the_other_axis(joined: Executable) -> None:
    config = runtime.HostConcatRunnerConfig(batching_dim=0)
    with runtime.Runner(joined, config) as runner, runtime.LightRunner(Compiler.compile(many_inputs())) as light:
        assert isinstance(runner, runtime.HostConcatRunner)
        inputs = data(light, 7)
        many = answer(runner, inputs, 7)
        first = {name: array[:ROWS] for name, array in inputs.items()}
        np.testing.assert_allclose(many[:ROWS], answer(light, first), rtol=1e-5, atol=1e-5)
        inputs["wide_3"] = inputs["wide_3"][:6]
        with pytest.raises(InputError, match=r"'wide_0' and 'wide_3' are fed as one and differ: \[7, 5\], \[6, 5\]"):
            answer(runner, inputs, 7)


def test_a_joined_input_may_be_given_as_it_is(joined: Executable) -> None:
    with runtime.HostConcatRunner(joined) as runner:
        inputs = data(runner)
        wide = np.concatenate([inputs.pop(f"wide_{i}") for i in range(WIDE)], 1)
        np.testing.assert_array_equal(
            answer(runner, {**inputs, "host_concat_wide_0": wide}), answer(runner, data(runner))
        )


def test_an_executable_where_nothing_is_joined_is_run_as_by_a_model_runner() -> None:
    plain = Compiler.compile(many_inputs())
    with runtime.HostConcatRunner(plain) as runner, runtime.ModelRunner(plain) as usual:
        np.testing.assert_array_equal(answer(runner, data(usual)), answer(usual, data(usual)))


def test_the_converter_joins_by_a_keyword() -> None:
    converted = Converter(apply_hcsr=True, disable_progress_bar=True).convert(many_inputs())
    assert len(converted.graph.input) == 2
    listed = Converter(apply_hcsr="[('float32', (4, 5))]", disable_progress_bar=True).convert(many_inputs())
    assert len(listed.graph.input) == NARROW + 1


@pytest.mark.parametrize(("precision", "joined"), [("fp32", "[('float32', (4, 1))]"), ("fp16", True)])
def test_a_model_with_joined_inputs_is_checked_against_its_original(precision: str, joined: bool | str) -> None:
    converter = Converter(apply_hcsr=joined, precision=precision, check=True, disable_progress_bar=True)
    converter.convert(many_inputs())
    assert converter.verification is not None
    assert converter.verification.passed


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda inputs: inputs.pop("narrow_7"), r"missing input 'narrow_7' \(float32, shape \[4, 1\]\)"),
        (lambda inputs: inputs.update(narrow_7=inputs["wide_0"]), r"'narrow_7': expected shape \[4, 1\], got \[4, 5\]"),
        (lambda inputs: inputs.update(narrow_x=inputs["wide_0"]), "unknown input 'narrow_x'"),
        (lambda inputs: inputs.update(wide_0=inputs["wide_0"].astype(complex)), "'wide_0': expected float32"),
    ],
)
def test_a_wrong_part_is_named(joined: Executable, change: object, text: str) -> None:
    with runtime.HostConcatRunner(joined) as runner:
        inputs = data(runner)
        change(inputs)  # type: ignore[operator]
        with pytest.raises(InputError, match=text):
            runner.execute(inputs, {"y": np.zeros((ROWS, 3), np.float32)})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tensor_name": "other"}, "'other' is no input; the executable has host_concat_narrow_0"),
        ({"input_tensor_names": ["a", "b"]}, r"2 inputs of shape \[4, 5\] make \[4, 10\]"),
        ({"input_tensor_names": "abcd"}, "input_tensor_names of .*expected names"),
        ({"shape": [4, 0]}, r"shape of .*expected >= 1"),
        ({"shape": []}, "shape of .*expected the extents"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(joined: Executable, fields: dict, text: str) -> None:
    usual = {"tensor_name": "host_concat_wide_0", "input_tensor_names": list("abcd"), "shape": [4, 5]}
    config = runtime.HostConcatRunnerConfig(host_concat_config={"x": runtime.HostConcatConfig(**{**usual, **fields})})
    with pytest.raises(PoprtError, match=text):
        runtime.HostConcatRunner(joined, config)


def test_misspelt_and_damaged_configurations(joined: Executable, caplog: pytest.LogCaptureFixture) -> None:
    runtime.HostConcatConfig().tensorname = "x"  # type: ignore[attr-defined]
    assert "Did you mean 'tensor_name'?" in caplog.text
    with pytest.raises(PoprtError, match="expected a dict of HostConcatConfig"):
        runtime.HostConcatRunner(joined, runtime.HostConcatRunnerConfig(host_concat_config={"x": "y"}))
    for text, named in (("{", "damaged"), ('{"a": {"tensor_name": 1}}', KEY)):
        damaged = Compiler.compile(adds(), None, CompilerOptions(opaque_blobs={KEY: text}))
        with pytest.raises(DamagedExecutableError, match=named):
            runtime.HostConcatRunner(damaged)
    with pytest.raises(PoprtError, match="HostConcatRunner serves one model"):
        runtime.HostConcatRunner(Executable.fused([joined]))
