"""Computing a float16 model in float32: types at the border stay, numbers agree, nothing float16 is left inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.graph_io import export_graph, import_graph
from poprt.compiler import Compiler, CompilerOptions
from poprt.compiler.lower_half import LowerHalf
from poprt.engine.providers import has_fast_half
from poprt.engine.session import EngineSession
from poprt.executable import Executable
from poprt.runtime.declared import DeclaredSession
from tests import numerics
from tests.poprt.test_compiler import linear, make_model, value

pytestmark = pytest.mark.skipif(has_fast_half(), reason="this engine computes in float16 itself")

RNG = np.random.default_rng(0)
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def engine_types(executable: Executable) -> set[int]:
    """Every element type that the engine's graph mentions for a tensor."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(executable.graph)).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    return {item.type.tensor_type.elem_type for item in values} | {tensor.data_type for tensor in graph.initializer}


def branching() -> onnx.ModelProto:
    """An If whose branches hold float16 constants, casts and a ConstantOfShape; output float16."""

    def branch(name: str, factor: float) -> onnx.GraphProto:
        fill = numpy_helper.from_array(np.array([factor], np.float16))
        return helper.make_graph(
            [
                helper.make_node("Shape", ["x"], [f"{name}_shape"]),
                helper.make_node("ConstantOfShape", [f"{name}_shape"], [f"{name}_fill"], value=fill),
                helper.make_node("Cast", ["count"], [f"{name}_count"], to=HALF),
                helper.make_node("Mul", [f"{name}_fill", "x"], [f"{name}_product"]),
                helper.make_node("Add", [f"{name}_product", f"{name}_count"], [f"{name}_sum"]),
                helper.make_node("Add", [f"{name}_sum", f"{name}_bias"], [f"{name}_out"]),
            ],
            name,
            [],
            [value(f"{name}_out", HALF, [4])],
            [numpy_helper.from_array(np.full(4, 0.5, np.float16), f"{name}_bias")],
        )

    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch("yes", 2.0), else_branch=branch("no", -1.0))
    return make_model(
        [node],
        [value("x", HALF, [4]), value("flag", TensorProto.BOOL, []), value("count", TensorProto.INT32, [])],
        [value("y", HALF, [4])],
    )


def test_the_callers_types_stay_and_the_engine_computes_in_float32() -> None:
    executable = Compiler.compile(linear(np.float16))
    assert [(spec.dtype, spec.engine_dtype) for spec in (*executable.inputs, *executable.outputs)] == [
        ("float16", "float32")
    ] * 3
    assert HALF not in engine_types(executable)


def test_weights_are_stored_as_float16_and_widened_on_load() -> None:
    executable = Compiler.compile(linear(np.float16))
    (spec,) = executable.manifest.weights
    assert (spec.dtype, spec.engine_dtype, spec.nbytes) == ("float16", "float32", 32 * 32 * 2)
    assert executable.weight("w").dtype == np.float16


def test_a_lowered_model_is_at_least_as_exact_as_its_float16_run() -> None:
    model = linear(np.float16)
    arrays = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    x = RNG.standard_normal((3, 32)).astype(np.float16)
    exact = x.astype(np.float64) @ arrays["w"] + arrays["b"]
    (y,) = EngineSession(Compiler.compile(model)).run({"x": x}, ["y"])
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, numerics.run(model, {"x": x})["y"], rtol=2e-2, atol=2e-2)


def test_a_declared_session_gives_float16() -> None:
    (y,) = DeclaredSession(Compiler.compile(linear(np.float16))).run({"x": np.ones((2, 32), np.float16)}, ["y"])
    assert y.dtype == np.float16


@pytest.mark.parametrize("flag", [True, False])
def test_subgraphs_are_lowered_too(flag: bool) -> None:
    model = branching()
    feeds = {"x": np.arange(4, dtype=np.float16), "flag": np.array(flag), "count": np.array(3, np.int32)}
    (y,) = EngineSession(Compiler.compile(model)).run(feeds)
    np.testing.assert_array_equal(y, numerics.run(model, feeds)["y"].astype(np.float32))


def test_local_functions_are_lowered_too() -> None:
    function = helper.make_function(
        "local",
        "Halve",
        ["a"],
        ["b"],
        [
            helper.make_node("Cast", ["a"], ["h"], to=HALF),
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float16(0.5))),
            helper.make_node("Mul", ["h", "c"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    node = helper.make_node("Halve", ["x"], ["y"], domain="local")
    model = make_model([node], [value("x", FLOAT, [2])], [value("y", HALF, [2])])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    executable = Compiler.compile(model)
    assert (executable.outputs[0].dtype, executable.outputs[0].engine_dtype) == ("float16", "float32")
    np.testing.assert_array_equal(EngineSession(executable).run({"x": np.float32([3, 5])})[0], [1.5, 2.5])


def test_type_attributes_and_sequence_types_are_widened() -> None:
    random = helper.make_node("RandomNormal", [], ["r"], dtype=HALF, shape=[2])
    gather = helper.make_node("SequenceConstruct", ["r", "r"], ["s"])
    model = make_model([random, gather], [], [value("r", HALF, [2])])
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(HALF, [2]))
    model.graph.output.append(helper.make_value_info("s", sequence))
    graph = import_graph(model)
    assert LowerHalf().apply(graph).counts == {"tensors widened": 2, "attributes widened": 1}
    widened = export_graph(graph)
    assert widened.graph.output[1].type.sequence_type.elem_type.tensor_type.elem_type == FLOAT
    assert widened.graph.node[0].attribute[0].i == FLOAT
    assert not LowerHalf().apply(graph).modified


def test_a_model_without_float16_is_left_as_it_is() -> None:
    graph = import_graph(linear())
    before = export_graph(graph).SerializeToString()
    assert not LowerHalf().apply(graph).modified
    assert export_graph(graph).SerializeToString() == before


def test_replaceable_float16_weights_take_float16_values() -> None:
    session = EngineSession(Compiler.compile(linear(np.float16), ["y"], CompilerOptions(constant_weights=False)))
    session.update_weights({"w": np.zeros((32, 32), np.float16), "b": np.full(32, 2, np.float16)})
    np.testing.assert_array_equal(session.run({"x": np.ones((1, 32), np.float16)})[0], np.full((1, 32), 2))


@pytest.mark.parametrize("flag", [True, False])
def test_a_stored_weight_can_be_read_from_within_a_subgraph(flag: bool) -> None:
    def branch(name: str, op_type: str) -> onnx.GraphProto:
        node = helper.make_node(op_type, ["x", "w"], [name])
        return helper.make_graph([node], name, [], [value(name, HALF, [1024])])

    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch("sum", "Add"), else_branch=branch("gap", "Sub"))
    model = make_model(
        [node],
        [value("x", HALF, [1024]), value("flag", TensorProto.BOOL, [])],
        [value("y", HALF, [1024])],
        {"w": np.full(1024, 0.5, np.float16)},
    )
    executable = Compiler.compile(model)
    assert [spec.name for spec in executable.manifest.weights] == ["w"]
    (y,) = EngineSession(executable).run({"x": np.ones(1024, np.float16), "flag": np.array(flag)})
    np.testing.assert_array_equal(y, np.full(1024, 1.5 if flag else 0.5))


@pytest.mark.parametrize("as_initializer", [True, False])
def test_gelu_keeps_its_constants_so_that_the_engine_can_fuse_it(as_initializer: bool, tmp_path: Path) -> None:
    scalars = {"root": np.array(np.sqrt(2), np.float16), "one": np.float16(1), "half": np.array([0.5], np.float16)}
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
        for name, array in scalars.items()
    ]
    gelu = [
        helper.make_node("Div", ["x", "root"], ["a"]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["c"]),
        helper.make_node("Mul", ["x", "c"], ["d"]),
        helper.make_node("Mul", ["d", "half"], ["y"]),
    ]
    io = [value("x", HALF, ["n", 8])], [value("y", HALF, ["n", 8])]
    model = make_model(gelu, *io, scalars) if as_initializer else make_model(constants + gelu, *io)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(Compiler.compile(model).graph, options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node] == ["Gelu"]
