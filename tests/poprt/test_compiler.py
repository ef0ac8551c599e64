"""The compiler: what it accepts, what it keeps, and what it says of a model that cannot run."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.bert import BertConfig, build_bert
from poprt.compiler import Compiler, CompilerOptions, Executable
from poprt.engine.session import EngineSession
from poprt.errors import CompileError
from poprt.executable import WEIGHT_DTYPES
from tests import numerics

RNG = np.random.default_rng(0)


def value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def make_model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    arrays: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in (arrays or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def linear(dtype: type = np.float32, *, open_batch: bool = True) -> onnx.ModelProto:
    """y = x @ w + b, s = relu(y), with a weight large enough to be kept outside the graph."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    batch: int | str = "batch" if open_batch else 2
    return make_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="project"),
            helper.make_node("Add", ["h", "b"], ["y"]),
            helper.make_node("Relu", ["y"], ["s"]),
        ],
        [value("x", kind, [batch, 32])],
        [value("y", kind, [batch, 32]), value("s", kind, [batch, 32])],
        {
            "w": RNG.standard_normal((32, 32)).astype(dtype),
            "b": RNG.standard_normal(32).astype(dtype),
            "unread": np.zeros(1000, dtype),
        },
    )


def test_an_executable_computes_what_the_model_computes() -> None:
    model = linear()
    x = RNG.standard_normal((3, 32)).astype(np.float32)
    y, s = EngineSession(Compiler.compile(model)).run({"x": x})
    expected = numerics.run(model, {"x": x})
    np.testing.assert_allclose(y, expected["y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(s, expected["s"], rtol=1e-5, atol=1e-5)


def test_declared_shapes_and_types_are_kept_and_open_extents_are_zero() -> None:
    executable = Compiler.compile(linear())
    assert [(spec.name, spec.shape, spec.dtype) for spec in executable.inputs] == [("x", (0, 32), "float32")]
    assert [spec.name for spec in executable.outputs] == ["y", "s"]


def test_large_tensors_are_stored_once_and_unread_ones_are_dropped() -> None:
    executable = Compiler.compile(linear())
    assert [spec.name for spec in executable.manifest.weights] == ["w"]
    assert len(executable.graph) < 1500


def test_bytes_a_path_and_a_model_give_the_same_executable(tmp_path: Path) -> None:
    model = linear()
    onnx.save(model, str(tmp_path / "inside.onnx"))
    outside = onnx.ModelProto()
    outside.CopyFrom(model)
    onnx.save(outside, str(tmp_path / "outside.onnx"), save_as_external_data=True, size_threshold=0)
    sources = [model, model.SerializeToString(), tmp_path / "inside.onnx", str(tmp_path / "outside.onnx")]
    files = []
    for index, source in enumerate(sources):
        Compiler.compile_and_export(source, None, tmp_path / f"{index}.popef")
        files.append((tmp_path / f"{index}.popef").read_bytes())
    assert len(set(files)) == 1


def test_compiling_does_not_change_the_model() -> None:
    model = linear(np.float16)
    before = model.SerializeToString(deterministic=True)
    Compiler.compile(model, ["s"])
    assert model.SerializeToString(deterministic=True) == before


def test_data_that_should_lie_beside_the_model_and_does_not_is_named(tmp_path: Path) -> None:
    onnx.save(linear(), str(tmp_path / "m.onnx"), save_as_external_data=True, size_threshold=0, location="m.data")
    content = (tmp_path / "m.onnx").read_bytes()
    with pytest.raises(CompileError, match=r"'w'.*m\.data.*path"):
        Compiler.compile(content)
    (tmp_path / "m.data").write_bytes(b"short")
    with pytest.raises(CompileError, match=r"'w'.*truncated"):
        Compiler.compile(tmp_path / "m.onnx")
    (tmp_path / "m.data").unlink()
    with pytest.raises(CompileError, match=r"'w'.*does not exist"):
        Compiler.compile(tmp_path / "m.onnx")


def test_data_outside_the_models_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    onnx.save(linear(), str(tmp_path / "m.onnx"), save_as_external_data=True, size_threshold=0, location="m.data")
    model = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../m.data"
    (tmp_path / "inner" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CompileError, match="outside the model's folder"):
        Compiler.compile(tmp_path / "inner" / "m.onnx")


def test_what_is_no_model_is_a_clear_error() -> None:
    with pytest.raises(CompileError, match="cannot be read as an ONNX model"):
        Compiler.compile(b"\xff\xff\xff not a model")
    with pytest.raises(CompileError, match="no outputs"):
        Compiler.compile(b"")


def test_an_operator_of_a_domain_that_is_not_imported_is_named() -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], name="stray", domain="com.nowhere")
    model = make_model([node], [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])])
    with pytest.raises(CompileError, match="Gelu"):
        Compiler.compile(model)


def test_an_output_asked_for_twice_is_given_once() -> None:
    assert [spec.name for spec in Compiler.compile(linear(), ["y", "s", "y"]).outputs] == ["y", "s"]


def test_only_the_outputs_asked_for_are_kept_in_the_order_asked() -> None:
    assert [spec.name for spec in Compiler.compile(linear(), ["s", "y"]).outputs] == ["s", "y"]
    only = Compiler.compile(linear(), ["y"])
    assert "Relu" not in {node.op_type for node in onnx.load_model_from_string(only.graph).graph.node}


def test_an_unknown_output_is_an_error_that_lists_those_that_exist() -> None:
    with pytest.raises(CompileError, match=r"'z'.*y, s"):
        Compiler.compile(linear(), ["y", "z"])
    with pytest.raises(CompileError, match="nothing"):
        Compiler.compile(linear(), [])


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    model = linear()
    model.graph.input.append(value("w", TensorProto.FLOAT, [32, 32]))
    assert [spec.name for spec in Compiler.compile(model).inputs] == ["x"]


def test_large_constant_nodes_are_stored_as_weights() -> None:
    model = linear()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    model.graph.initializer.remove(weight)
    executable = Compiler.compile(model)
    assert [spec.name for spec in executable.manifest.weights] == ["w"]
    x = np.ones((1, 32), np.float32)
    np.testing.assert_allclose(
        EngineSession(executable).run({"x": x}, ["y"])[0], numerics.run(model, {"x": x})["y"], 1e-4
    )


def test_a_bert_runs_from_its_saved_executable(tmp_path: Path) -> None:
    model = build_bert(BertConfig(vocab=40, hidden=32, layers=2, heads=2, intermediate=64, max_positions=32))
    Compiler.compile_and_export(model, None, tmp_path / "bert.popef")
    session = EngineSession(Executable(tmp_path / "bert.popef"))
    feeds = {}
    for spec in session.executable.inputs:
        feeds[spec.name] = RNG.integers(0, 2 if "type" in spec.name else 40, (2, 9)).astype(spec.dtype)
    feeds["attention_mask"] = np.ones_like(feeds["attention_mask"])
    expected = numerics.run(model, feeds)
    for name, got in zip(session.output_names, session.run(feeds), strict=True):
        np.testing.assert_allclose(got, expected[name], rtol=1e-4, atol=1e-5)


def test_an_operator_that_does_not_exist_is_named_with_its_node() -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="odd one")
    model = make_model([node], [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])])
    with pytest.raises(CompileError, match=r"odd one.*Frobnicate"):
        Compiler.compile(model)


def test_a_node_without_a_name_is_named_by_its_output() -> None:
    node = helper.make_node("MatMul", ["x", "x"], ["product"])
    model = make_model([node], [value("x", TensorProto.FLOAT, [2, 3])], [value("product", TensorProto.FLOAT, [2, 2])])
    with pytest.raises(CompileError, match="product"):
        Compiler.compile(model)


def test_an_unknown_operator_of_our_domain_is_a_compile_error() -> None:
    node = helper.make_node("Pack", ["x"], ["y"], domain="ai.graphcore")
    model = make_model([node], [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])])
    with pytest.raises(CompileError, match=r"ai\.graphcore"):
        Compiler.compile(model)


def test_a_bare_operator_of_our_domain_gets_its_body_and_its_opset_import() -> None:
    node = helper.make_node("AttentionMask", ["mask", "x"], ["m"], domain="ai.graphcore", dataType="FLOAT16")
    model = make_model(
        [node],
        [value("mask", TensorProto.INT32, [1, 4]), value("x", TensorProto.FLOAT16, [1, 4])],
        [value("m", TensorProto.FLOAT16, [1, 1, 4, 4])],
    )
    session = EngineSession(Compiler.compile(model))
    mask = np.array([[1, 1, 2, 0]], np.int32)
    (m,) = session.run({"mask": mask, "x": np.zeros((1, 4), np.float16)})
    np.testing.assert_array_equal(m[0, 0] == 0, (mask[0][:, None] == mask[0][None]) & (mask[0][None] != 0))
    assert session.executable.outputs[0].dtype == "float16"


def test_a_bare_operator_in_a_model_of_an_older_opset_raises_the_opset() -> None:
    model = linear(np.float16, open_batch=False)
    model.opset_import[0].version = 11
    model.graph.node.append(
        helper.make_node("AttentionMask", ["mask", "x"], ["m"], domain="ai.graphcore", dataType="FLOAT")
    )
    model.graph.input.append(value("mask", TensorProto.INT32, [1, 4]))
    model.graph.output.append(value("m", TensorProto.FLOAT, [1, 1, 4, 4]))
    feeds = {"mask": np.array([[1, 1, 2, 0]]), "x": np.ones((2, 32), np.float16)}
    y, m = EngineSession(Compiler.compile(model)).run(feeds, ["y", "m"])
    assert y.shape == (2, 32)
    np.testing.assert_array_equal(m[0, 0, 0] == 0, [True, True, False, False])


@pytest.mark.parametrize("dtype", sorted(WEIGHT_DTYPES))
def test_weights_of_every_type_pass_through_a_file(tmp_path: Path, dtype: str) -> None:
    table = RNG.integers(0, 2, (64, 1024)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = make_model(
        [helper.make_node("Gather", ["table", "row"], ["y"])],
        [value("row", TensorProto.INT64, [])],
        [value("y", kind, [1024])],
        {"table": table},
    )
    Compiler.compile_and_export(model, None, tmp_path / "m.popef")
    executable = Executable(tmp_path / "m.popef")
    assert [spec.dtype for spec in executable.manifest.weights] == [dtype]
    np.testing.assert_array_equal(EngineSession(executable).run({"row": np.array(7)})[0], table[7])


def test_tensors_of_types_that_numpy_lacks_stay_in_the_graph() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [1024], [0.5] * 1024)
    model = make_model(
        [helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), helper.make_node("Add", ["x", "f"], ["y"])],
        [value("x", TensorProto.FLOAT, [1024])],
        [value("y", TensorProto.FLOAT, [1024])],
    )
    model.opset_import[0].version, model.ir_version = 19, 9  # the first that know it
    model.graph.initializer.append(weight)
    executable = Compiler.compile(model)
    assert executable.manifest.weights == ()
    np.testing.assert_array_equal(
        EngineSession(executable).run({"x": np.ones(1024, np.float32)})[0], np.full(1024, 1.5)
    )


def test_a_wrongly_declared_output_type_is_inferred_again(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(
        [helper.make_node("Mul", ["x", "x"], ["y"])],
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT16, [2])],
    )
    with caplog.at_level(logging.WARNING, "poprt"):
        executable = Compiler.compile(model)
    assert executable.outputs[0].dtype == "float32"
    assert "output 'y' is declared FLOAT16 but computed as FLOAT" in caplog.text
    np.testing.assert_array_equal(EngineSession(executable).run({"x": np.float32([2, 3])})[0], [4, 9])


def test_a_wrongly_declared_output_shape_is_corrected() -> None:
    model = make_model(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [3])],
    )
    assert Compiler.compile(model).outputs[0].shape == (4,)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_narrow_integer_arithmetic_at_an_old_opset_wraps_as_numpy_does(op_type: str, dtype: type) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constant = np.array([100, 3, 7], dtype)
    model = make_model(
        [helper.make_node(op_type, ["x", "c"], ["y"])],
        [value("x", kind, [3])],
        [value("y", kind, [3])],
        {"c": constant},
        opset=11,
    )
    x = np.array([90, 2, 1], dtype)
    expected = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[op_type](x, constant)
    (y,) = EngineSession(Compiler.compile(model)).run({"x": x})
    np.testing.assert_array_equal(y, expected, strict=True)


def test_metadata_passes_options_blobs_and_versions_are_noted() -> None:
    model = linear()
    helper.set_model_props(model, {"poprt.passes": '["a", "b"]', "other": "text"})
    options = CompilerOptions(opaque_blobs={"HostConcatRunnerConfig": "[]"}, batches_per_step=4)
    manifest = Compiler.compile(model, None, options).manifest
    assert manifest.passes == ("a", "b")
    assert manifest.metadata["other"] == "text"
    assert manifest.opaque_blobs == {"HostConcatRunnerConfig": "[]"}
    assert manifest.options["batches_per_step"] == 4
    assert set(manifest.versions) == {"poprt", "onnx", "onnxruntime"}


def test_float_weights_can_be_replaced_when_they_are_not_constant() -> None:
    model = linear()
    executable = Compiler.compile(model, ["y"], CompilerOptions(constant_weights=False))
    assert {spec.name for spec in executable.manifest.weights} == {"w", "b"}
    assert [spec.name for spec in executable.inputs] == ["x"]
    session = EngineSession(executable)
    x = RNG.standard_normal((2, 32)).astype(np.float32)
    np.testing.assert_allclose(session.run({"x": x})[0], numerics.run(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)
    session.update_weights({"w": np.zeros((32, 32), np.float32), "b": np.full(32, 5, np.float32)})
    np.testing.assert_array_equal(session.run({"x": x})[0], np.full((2, 32), 5, np.float32))


def test_shape_constants_are_no_replaceable_weights() -> None:
    model = make_model(
        [helper.make_node("Reshape", ["x", "target"], ["y"])],
        [value("x", TensorProto.FLOAT, [2, 3])],
        [value("y", TensorProto.FLOAT, [6])],
        {"target": np.array([6])},
    )
    executable = Compiler.compile(model, None, CompilerOptions(constant_weights=False))
    assert executable.manifest.weights == ()


def test_a_cached_executable_is_reused_for_the_same_model_and_options_only(tmp_path: Path) -> None:
    model = linear()
    options = CompilerOptions(enable_engine_caching=True, cache_path=str(tmp_path / "cache"))
    first = Compiler.compile(model, None, options)
    (file,) = (tmp_path / "cache").iterdir()
    stamp = file.stat().st_mtime_ns
    second = Compiler.compile(model, None, options)
    assert file.stat().st_mtime_ns == stamp
    assert second.manifest == first.manifest
    Compiler.compile(model, ["y"], options)
    other = linear()
    Compiler.compile(other, None, options)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_damaged_cache_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = CompilerOptions(enable_engine_caching=True, cache_path=str(tmp_path))
    model = linear()
    Compiler.compile(model, None, options)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-50])
    with caplog.at_level(logging.WARNING, "poprt"):
        Compiler.compile(model, None, options)
    assert "made again" in caplog.text
    assert file.read_bytes() == good


def test_caching_without_a_folder_is_an_error() -> None:
    with pytest.raises(CompileError, match="cache_path"):
        Compiler.compile(linear(), None, CompilerOptions(enable_engine_caching=True))


def test_a_cache_path_that_is_no_folder_is_an_error_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        options = CompilerOptions(enable_engine_caching=True, cache_path=str(tmp_path / path))
        with pytest.raises(CompileError, match=r"'cache_path'.*file"):
            Compiler.compile(linear(), None, options)


def test_an_executable_that_cannot_be_kept_is_returned_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = CompilerOptions(enable_engine_caching=True, cache_path=str(tmp_path))
    model = linear()
    Compiler.compile(model, None, options)
    (file,) = tmp_path.iterdir()
    file.unlink()
    file.mkdir()
    with caplog.at_level(logging.WARNING, "poprt"):
        assert Compiler.compile(model, None, options).outputs
    assert "cannot be kept" in caplog.text
    assert list(tmp_path.iterdir()) == [file]
