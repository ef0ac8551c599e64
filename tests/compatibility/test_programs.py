"""Programs as somebody writes them for PopRT: they set what an IPU needs, and run here as they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import poprt
from poprt import Pass, runtime
from poprt.backend import get_session
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter, Sharder
from poprt.passes import register
from poprt.passes.onnx_helper import clean_info, get_constant, topological_sort
from poprt.passes.shape_inference import infer_shapes
from poprt.utils import get_input_info_from_model_proto
from tests.poprt_cli.command import Poprt

ITERATIONS = 20


def classifier() -> onnx.ModelProto:
    """Two layers over eight features; opset 11, an open batch."""
    rng = np.random.default_rng(0)
    weights = {"w0": rng.standard_normal((8, 16)), "b0": rng.standard_normal(16), "w1": rng.standard_normal((16, 3))}
    nodes = [
        helper.make_node("MatMul", ["features", "w0"], ["m0"], name="MatMul_0"),
        helper.make_node("Add", ["m0", "b0"], ["a0"], name="Add_1"),
        helper.make_node("Relu", ["a0"], ["r0"], name="Relu_2"),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"], name="MatMul_3"),
        helper.make_node("Softmax", ["m1"], ["classes"], name="Softmax_4", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("classes", onnx.TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def expected(model: onnx.ModelProto, features: Any) -> Any:
    session = get_session(model.SerializeToString(), 1, "onnxruntime").load()
    return session.run(["classes"], {"features": features})[0]


def test_convert_compile_and_run_with_the_options_of_an_ipu() -> None:
    model = classifier()
    converter = Converter(
        convert_version=11,
        precision="fp16",
        input_shape={"features": [4, 8]},
        enable_insert_remap=True,
        remap_mode=["after_matmul"],
        serialize_matmul={"MatMul_0": "2/input_channels"},
        fp8_params="F143,F143,-1,-1",
    )
    converted = converter.convert(model)
    options = CompilerOptions()
    options.ipu_version = runtime.DeviceManager().ipu_hardware_version()
    options.num_io_tiles = 128
    options.batches_per_step = 8
    options.enable_prefetch_datastreams = True
    options.stream_buffering_depth = 2
    options.rearrange_anchors_on_host = False
    options.enable_multi_stage_reduce = False
    options.use_128bit_conv_unit_load = True
    executable = Compiler.compile(converted.SerializeToString(), [o.name for o in converted.graph.output], options)

    runner = runtime.Runner(executable)
    inputs = {d.name: np.random.rand(*d.shape).astype(d.numpy_data_type()) for d in runner.get_execute_inputs()}
    outputs = {d.name: np.zeros(d.shape, dtype=d.numpy_data_type()) for d in runner.get_execute_outputs()}
    runner.execute(inputs, outputs)
    start = time.time()
    futures = [runner.execute_async(inputs, outputs) for _ in range(ITERATIONS)]
    for future in futures:
        future.wait()
    assert time.time() - start < 10
    want = expected(model, inputs["features"].astype(np.float32))
    np.testing.assert_allclose(outputs["classes"], want, rtol=0, atol=5e-3)


def test_a_sharded_model_is_compiled_for_several_devices() -> None:
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    places = {"Relu_2": 0, "MatMul_3": 1}
    model = Sharder(sharding_info=places, pipelining_info=places).run(model)
    options = CompilerOptions()
    options.num_ipus = 2
    options.enable_pipelining = True
    options.virtual_graph_mode = "manual"
    config = runtime.RuntimeConfig()
    config.timeout_ns = 0
    features = np.ones((1, 8), np.float32)
    answer = runtime.OutputMemoryView(classes=np.zeros((1, 3), np.float32))
    runner = runtime.Runner(Compiler.compile(model.SerializeToString(), ["classes"], options), config)
    runner.execute(runtime.InputMemoryView(features=features), answer)
    np.testing.assert_allclose(answer["classes"], expected(model, features), rtol=0, atol=1e-6)


SCALE_WEIGHTS = """
import onnx
from onnx import numpy_helper
from poprt.passes import Pass, register
from poprt.passes.onnx_helper import get_constant


@register("{name}")
class Scale(Pass):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        onnx_model.graph.CopyFrom(self.traverse_graph(onnx_model.graph, self.scale))
        return onnx_model

    def scale(self, graph, is_main_graph):
        tensor = get_constant(graph, "w1")
        if tensor is not None:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, "w1"))
        return graph
"""


def test_a_pass_from_a_file_runs_on_the_command_line(poprt: Poprt) -> None:
    onnx.save(classifier(), "model.onnx")
    Path("mine.py").write_text(SCALE_WEIGHTS.format(name="scale_on_the_command_line"))
    words = [
        "--custom_pass_config",
        "mine.py",
        "--passes",
        "scale_on_the_command_line",
        "--input_shape",
        "features=2,8",
    ]
    result = poprt("--input_model", "model.onnx", "--output_model", "mine.onnx", *words)
    assert result.exit_code == 0, result.output
    features = np.random.rand(2, 8).astype(np.float32)
    np.testing.assert_allclose(expected(onnx.load("mine.onnx"), features), 1 / 3, atol=1e-6)


def test_a_pass_from_a_file_runs_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_passes_of_a_test.py").write_text(SCALE_WEIGHTS.format(name="scale_in_python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_passes_of_a_test

    assert poprt.get_registered_passes()["scale_in_python"] is my_passes_of_a_test.Scale
    converted = Converter(used_passes=["scale_in_python"], input_shape={"features": [2, 8]}).convert(classifier())
    features = np.random.rand(2, 8).astype(np.float32)
    np.testing.assert_allclose(expected(converted, features), 1 / 3, atol=1e-6)
    by_hand = poprt.PassManager(used_passes=[Pass.get_pass("scale_in_python")]).run(classifier())
    np.testing.assert_allclose(expected(by_hand, features), 1 / 3, atol=1e-6)


@register("double_the_classes_of_a_test")
class DoubleClasses(Pass):
    """Adds a node in front of the output, by hand, and infers the shapes again."""

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        graph = model.graph
        softmax = next(node for node in graph.node if node.op_type == "Softmax")
        softmax.output[0] = "single"
        two = numpy_helper.from_array(np.array(2, np.float32), "two")
        graph.initializer.append(two)
        graph.node.insert(0, helper.make_node("Mul", ["single", "two"], ["classes"]))
        in_order = topological_sort(graph)
        graph.ClearField("node")
        graph.node.extend(in_order)
        assert get_constant(graph, "two") is not None
        return infer_shapes(clean_info(model))


def test_a_pass_that_overrides_the_call_is_called() -> None:
    features = np.random.rand(2, 8).astype(np.float32)
    converted = Converter(used_passes=["double_the_classes_of_a_test"]).convert(classifier())
    np.testing.assert_allclose(expected(converted, features), 2 * expected(classifier(), features), atol=1e-6)


def test_a_model_and_its_half_precision_twin_are_compared_tensor_by_tensor() -> None:
    shape = {"features": [2, 8]}
    models = {
        precision: Converter(input_shape=shape, precision=precision, disable_progress_bar=True).convert(classifier())
        for precision in ("fp32", "fp16")
    }
    tensors = [{name for node in model.graph.node for name in node.output} for model in models.values()]
    common = sorted(set.intersection(*tensors))
    assert {"m0", "a0", "r0", "m1", "classes"} <= set(common)
    results: dict[str, dict[str, Any]] = {}
    features = np.random.default_rng(0).random((2, 8))
    for (precision, model), backend in zip(models.items(), ("onnxruntime", "poprt"), strict=True):
        outputs = {item.name for item in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in common if name not in outputs)
        session = get_session(model.SerializeToString(), 1, backend)
        session.load()
        inputs_info, outputs_info = session.get_io_info()
        feeds = {name: features.astype(dtype) for name, (_, dtype) in inputs_info.items()}
        results[precision] = dict(zip(outputs_info, session.run(list(outputs_info), feeds), strict=True))
    for name in common:
        full, half = results["fp32"][name], results["fp16"][name]
        assert (full.shape, full.dtype, half.dtype) == (half.shape, "float32", "float16")
        np.testing.assert_allclose(half, full, rtol=0, atol=1e-2 * np.abs(full).max(), err_msg=name)


def test_a_benchmark_reads_shapes_and_types_from_the_converted_model() -> None:
    model = Converter(precision="fp16", batch_size=3, batch_axis=0, disable_progress_bar=True).convert(classifier())
    shapes, dtypes = get_input_info_from_model_proto(model)
    inputs = {name: np.ones(shape, dtypes[name]) for name, shape in shapes.items()}
    assert (shapes, dtypes["features"]) == ({"features": [3, 8]}, np.float16)
    options = CompilerOptions.from_dict({"partials_type": "half", "num_io_tiles": 32})
    options.show_compilation_progress_bar = False
    config = runtime.RuntimeConfig()
    config.ring_buffer_size_multiplier = 5
    runner = runtime.Runner(Compiler.compile(model, outputs=["classes"], options=options), config)
    outputs = {
        info.name: np.zeros(info.shape, np.float32 if info.numpy_data_type() == "float32" else np.float16)
        for info in runner.get_execute_outputs()
    }
    runner.execute(inputs, outputs)
    assert outputs["classes"].sum() == pytest.approx(3, abs=1e-2)


def test_a_backend_serves_what_a_command_wrote(poprt: Poprt) -> None:
    onnx.save(classifier(), "model.onnx")
    assert (
        poprt("-i", "model.onnx", "--input_shape", "features=2,8", "--export_popef", "--output_dir", "out").exit_code
        == 0
    )
    features = np.random.rand(2, 8).astype(np.float32)
    output = {"classes": np.zeros((2, 3), np.float32)}
    runtime.ModelRunner("out/executable.popef").execute({"features": features}, output)
    (again,) = poprt_backend("out/model.optimized.onnx").run(["classes"], {"features": features})
    np.testing.assert_allclose(output["classes"], again, rtol=0, atol=1e-6)


def poprt_backend(path: str) -> Any:
    return poprt.Backend(path, export_popef="again.popef")
