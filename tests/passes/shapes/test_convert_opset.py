"""An older model comes to a newer opset with its numbers, names and weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.errors import RewriteError
from passes.graph_io import import_graph
from passes.shapes.convert_opset import ConvertOpset
from tests.numerics import run
from tests.passes.rewrites import parse, rewritten

X = np.random.default_rng(0).standard_normal((2, 1, 4)).astype(np.float32)

OLD = {
    "squeeze": ("y = Squeeze <axes=[1]> (x)", 12),
    "unsqueeze": ("y = Unsqueeze <axes=[0,2]> (x)", 12),
    "split": ("a, b = Split <axis=2, split=[1,3]> (x)  y = Concat <axis=2> (b, a)", 12),
    "sum": ("y = ReduceSum <axes=[-1], keepdims=1> (x)", 12),
    "softmax": ("y = Softmax <axis=2> (x)", 12),
    "flattening softmax": ("y = Softmax <axis=1> (x)", 12),
    "dropout": ("y = Dropout <ratio=0.1> (x)", 11),
    "pad": ("p = Constant <value = int64[6] {0,1,0,0,0,2}> ()  y = Pad (x, p)", 12),
    "clip": ("l = Constant <value = float {0.0}> ()  y = Clip (x, l)", 11),
    "mean": ("y = ReduceMean <axes=[-1]> (x)", 13),
}


@pytest.mark.parametrize("case", OLD)
@pytest.mark.parametrize("old", [11, 12, 13])
def test_operators_that_changed_keep_their_numbers(case: str, old: int) -> None:
    body, newest = OLD[case]
    if old > newest:
        body, old = OLD[case][0], newest
    model = parse(f"g (float[2,1,4] x) => (float y) {{ {body} }}", opset=old)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model)
    converted = rewritten(ConvertOpset(17), model)
    assert {entry.domain: entry.version for entry in converted.opset_import}[""] == 17
    np.testing.assert_allclose(run(converted, {"x": X})["y"], run(model, {"x": X})["y"], rtol=1e-6)
    names = {name for node in model.graph.node for name in node.output}
    assert names - {"p", "l"} <= {name for node in converted.graph.node for name in node.output}


def test_a_newer_model_is_never_lowered() -> None:
    model = parse("g (float[n] x) => (float[n] y) { y = Neg (x) }", opset=18)
    assert rewritten(ConvertOpset(17), model).opset_import == model.opset_import


def test_large_weights_are_not_read() -> None:
    model = parse(
        "g (float[2,64] x) => (float[1,2,64] y) { m = MatMul (x, w)  y = Unsqueeze <axes=[0]> (m) }", opset=11
    )
    weight = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    model.graph.initializer.append(weight)
    graph = import_graph(model)
    lazy_values = graph.tensors()["w"]._values
    ConvertOpset(17).apply(graph)
    assert graph.tensors()["w"]._values is lazy_values
    assert [tensor.name for tensor in graph.inputs] == ["x"]


def test_other_domains_subgraphs_and_functions_survive() -> None:
    model = parse(
        """g (float[2,1,4] x, bool c) => (float[2,4] y, float[1,2,1,4] z) {
        a = local.Twice (x)  b = ai.graphcore.Gen (a)
        y = If (c) <then_branch = t () => (float[2,4] p) { p = Squeeze <axes=[1]> (b) },
                    else_branch = e () => (float[2,4] q) { q = Squeeze (b) }>
        z = Unsqueeze <axes=[0]> (a)
    }
    <domain: "local", opset_import: ["" : 11]> Twice (x) => (y) { y = Identity (x) }
    <domain: "ai.graphcore", opset_import: ["" : 17]> Gen (x) => (y) { y = Neg (x) }""",
        opset=11,
    )
    converted = rewritten(ConvertOpset(17), model)
    assert [node.domain for node in converted.graph.node][:2] == ["local", "ai.graphcore"]
    assert {function.name for function in converted.functions} == {"Twice", "Gen"}
    feeds = {"x": X, "c": np.array(True)}
    got = run(converted, feeds)
    np.testing.assert_array_equal(got["y"], -X[:, 0])
    np.testing.assert_array_equal(got["z"], X[None])


def test_a_function_is_raised_as_the_graph_is() -> None:
    model = parse(
        """g (float[2,1,4] x) => (float[2,4] y) { y = local.Flat <where=[1]> (x) }
    <domain: "local", opset_import: ["" : 11]> Flat <where> (x) => (y) {
        a = Softmax <axis=1> (x)
        y = Squeeze <axes: ints = @where> (a)
    }""",
        opset=11,
    )
    converted = rewritten(ConvertOpset(17), model)
    assert {entry.domain: entry.version for entry in converted.functions[0].opset_import}[""] == 17
    np.testing.assert_allclose(run(converted, {"x": X})["y"], run(model, {"x": X})["y"], rtol=1e-6)


def test_an_operator_without_a_way_up_is_a_clear_error() -> None:
    model = parse("g (float[n] x) => (float[n] y) { y = NoSuchOperator (x) }", opset=11)
    with pytest.raises(RewriteError, match="NoSuchOperator"):
        ConvertOpset(17).run(model)


def test_an_opset_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RewriteError, match="opset 99 is not known"):
        ConvertOpset(99)
