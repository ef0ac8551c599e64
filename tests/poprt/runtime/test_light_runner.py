"""The light runner: weights are replaced while it runs, and it is stopped and started again."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from poprt import runtime
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.errors import InputError, PoprtError, RunnerClosedError
from poprt.executable import Executable
from tests.poprt.fused_models import adds

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(2, 8, 8)).astype(np.float32)
X = RNG.normal(size=(8, 8)).astype(np.float32)


def product() -> onnx.ModelProto:
    """y = mean of (x, expanded) times Weight; the shape is an initializer too."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("MatMul", ["wide", "Weight"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["y"], axes=[0], keepdims=0),
    ]
    square = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (8, 8)) for name in "xy"]
    constants = {"shape": np.array([2, 8, 8]), "Weight": WEIGHT}
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", square[:1], square[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


@pytest.fixture(scope="module")
def executable() -> Executable:
    return Compiler.compile(product(), ["y"], CompilerOptions(constant_weights=False))


def answer(runner: runtime.Runner) -> np.ndarray:
    outputs = {info.name: np.zeros(info.shape, info.numpy_data_type()) for info in runner.get_execute_outputs()}
    runner.execute_async({"x": X}, outputs).wait()
    return outputs["y"]


def expected(weight: np.ndarray) -> np.ndarray:
    return (X @ weight).mean(axis=0)


def test_weights_are_replaced_as_a_program_for_poprt_does_it(executable: Executable) -> None:
    devices = runtime.ReplicaIdToDevice()
    devices[0] = runtime.DeviceManager().get_specific_device(0)
    config = runtime.LightRunnerConfig()
    config.replica_to_device = devices
    config.check_package_hash = False
    runner = runtime.LightRunner(executable, config)
    np.testing.assert_allclose(answer(runner), expected(WEIGHT), rtol=1e-5, atol=1e-5)
    weights = {info.name: info for info in runner.get_model_inputs() if info.popef_contains_tensor_data}
    assert [(name, info.shape, info.numpy_data_type()) for name, info in weights.items()] == [
        ("Weight", [2, 8, 8], "float32")
    ]
    replaced = np.random.default_rng(1).uniform(-1, 1, weights["Weight"].shape).astype(np.float32)
    runner.set_input_anchor("Weight", replaced)
    np.testing.assert_allclose(answer(runner), expected(WEIGHT), rtol=1e-5, atol=1e-5)
    runner.update_weights()
    np.testing.assert_allclose(answer(runner), expected(replaced), rtol=1e-5, atol=1e-5)
    runner.close()


def test_an_anchor_is_read_when_the_weights_are_updated(executable: Executable) -> None:
    with runtime.LightRunner(executable) as runner:
        anchor = np.zeros_like(WEIGHT)
        runner.set_input_anchor("Weight", anchor)
        anchor[...] = 2
        runner.update_weights()
        anchor[...] = 3
        np.testing.assert_allclose(answer(runner), expected(np.full_like(WEIGHT, 2)), rtol=1e-5, atol=1e-5)


def test_a_runner_that_is_reloaded_has_the_weights_of_its_anchors(executable: Executable) -> None:
    runner = runtime.Runner(executable, runtime.LightRunnerConfig())
    assert isinstance(runner, runtime.LightRunner)
    runner.stop()
    runner.stop()
    for call in (lambda: answer(runner), runner.update_weights, lambda: runner.execute({"x": X}, {})):
        with pytest.raises(RunnerClosedError, match=r"stopped: reload\(\)"):
            call()
    runner.reload()
    np.testing.assert_allclose(answer(runner), expected(WEIGHT), rtol=1e-5, atol=1e-5)
    runner.set_input_anchor("Weight", np.ones_like(WEIGHT))
    runner.reload()
    np.testing.assert_allclose(answer(runner), expected(np.ones_like(WEIGHT)), rtol=1e-5, atol=1e-5)
    runner.close()


def test_every_answer_is_by_the_old_weights_or_by_the_new(executable: Executable) -> None:
    kinds = [expected(np.full_like(WEIGHT, value)) for value in (1, 2)]
    wrong: list[np.ndarray] = []
    with runtime.LightRunner(executable) as runner:
        runner.set_input_anchor("Weight", np.ones_like(WEIGHT))
        runner.update_weights()

        def ask() -> None:
            for _ in range(50):
                y = answer(runner)
                if not any(np.allclose(y, kind, rtol=1e-4, atol=1e-4) for kind in kinds):
                    wrong.append(y)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(50):
            runner.set_input_anchor("Weight", np.full_like(WEIGHT, 1 + turn % 2))
            runner.update_weights()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        ("Wieght", WEIGHT, "'Wieght' is no weight that may be replaced; there are Weight"),
        ("x", X, "'x' is no weight"),
        ("shape", np.array([2, 8, 8]), "'shape' is no weight"),
        ("Weight", WEIGHT[0], r"expected an array of shape \[2, 8, 8\], got \[8, 8\]"),
        ("Weight", WEIGHT.tolist(), r"expected an array of shape \[2, 8, 8\], got list"),
        ("Weight", WEIGHT.astype(np.complex64), "expected float32, got complex64"),
    ],
)
def test_a_wrong_anchor_is_named(executable: Executable, name: str, array: np.ndarray, text: str) -> None:
    with runtime.LightRunner(executable) as runner, pytest.raises(InputError, match=text):
        runner.set_input_anchor(name, array)


def test_weights_that_were_compiled_in_are_not_listed() -> None:
    with runtime.LightRunner(Compiler.compile(product())) as runner:
        assert [info.name for info in runner.get_model_inputs()] == ["x"]
        with pytest.raises(InputError, match="constant_weights=False"):
            runner.set_input_anchor("Weight", WEIGHT)
        runner.update_weights()
        np.testing.assert_allclose(answer(runner), expected(WEIGHT), rtol=1e-5, atol=1e-5)


def test_half_weights_take_halves_and_floats(tmp_path: Path) -> None:
    half = Converter(precision="fp16", disable_progress_bar=True).convert(product())
    Compiler.compile_and_export(half, None, tmp_path / "half.popef", CompilerOptions(constant_weights=False))
    with runtime.LightRunner(str(tmp_path / "half.popef")) as runner:
        (weight,) = [info for info in runner.get_model_inputs() if info.popef_contains_tensor_data]
        assert weight.numpy_data_type() == "float16"
        for dtype in (np.float16, np.float32):
            runner.set_input_anchor("Weight", np.zeros(weight.shape, dtype))
            runner.update_weights()
            outputs = {"y": np.ones((8, 8), np.float16)}
            runner.execute({"x": X.astype(np.float16)}, outputs)
            assert not outputs["y"].any()


def test_configurations_and_executables_of_other_runners_are_refused(executable: Executable) -> None:
    with pytest.raises(PoprtError, match="expected LightRunnerConfig or None, got RuntimeConfig"):
        runtime.LightRunner(executable, runtime.RuntimeConfig())  # type: ignore[arg-type]
    with pytest.raises(PoprtError, match="LightRunner serves one model, and the executable holds 2"):
        runtime.LightRunner(Executable.fused([executable, Compiler.compile(adds())]))
