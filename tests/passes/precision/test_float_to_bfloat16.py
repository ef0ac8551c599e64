"""Weights stored in bfloat16: which, once each, and what the model says of it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from passes.graph_io import export_graph, import_graph
from passes.precision.float_to_bfloat16 import COMPUTE_KEY, FloatToBfloat16
from tests import numerics

RNG = np.random.default_rng(0)
FEEDS = {"x": RNG.normal(size=(2, 32)).astype(np.float32)}
PRODUCT = "(float[2, 32] x) => (float[2, 32] y) { y = MatMul(x, w) }"


def random(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def model(body: str, **weights: NDArray[np.float32]) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m {body}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def converted(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model, and the constants that were left alone."""
    graph = import_graph(proto)
    result = FloatToBfloat16().apply(graph)
    return export_graph(graph), [refusal.node.name for refusal in result.refusals]


def stored(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types of the initializers, by how many have them."""
    types = [onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in proto.graph.initializer]
    return {name: types.count(name) for name in types}


def test_a_weight_is_rounded_once_and_cast_back() -> None:
    w = random(32, 32)
    proto, _ = converted(model(PRODUCT, w=w))
    assert stored(proto) == {"BFLOAT16": 1}
    assert [node.op_type for node in proto.graph.node] == ["Cast", "MatMul"]
    assert {item.key: item.value for item in proto.metadata_props} == {COMPUTE_KEY: "bfloat16"}
    rounded = w.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_allclose(numerics.run(proto, FEEDS)["y"], FEEDS["x"] @ rounded, rtol=1e-5, atol=1e-5)


def test_what_is_converted_stays_as_it_is() -> None:
    once, _ = converted(model(PRODUCT, w=random(32, 32)))
    twice, _ = converted(once)
    assert twice == once


def test_tied_weights_are_stored_once() -> None:
    body = "(float[2, 32] x) => (float[2, 32] y) { h = MatMul(x, w) y = MatMul(h, w) }"
    proto, _ = converted(model(body, w=random(32, 32)))
    assert stored(proto) == {"BFLOAT16": 1}
    assert [node.op_type for node in proto.graph.node] == ["Cast", "MatMul", "MatMul"]


def test_vectors_and_small_matrices_stay_float32() -> None:
    body = "(float[2, 32] x) => (float[2, 31] y) { b = Add(x, long) y = MatMul(b, w) }"
    proto, left = converted(model(body, w=random(32, 31), long=random(32)))
    assert stored(proto) == {"FLOAT": 2}
    assert left == []
    assert not proto.metadata_props


def test_a_value_beyond_bfloat16_keeps_its_tensor() -> None:
    w = random(32, 32)
    w[3, 4] = np.finfo(np.float32).min
    proto, left = converted(model(PRODUCT, w=w))
    assert left == ["w"]
    assert stored(proto) == {"FLOAT": 1}


def test_positions_are_not_rounded() -> None:
    w = np.arange(1024, dtype=np.float32).reshape(32, 32)
    assert converted(model(PRODUCT, w=w))[1] == ["w"]
    assert converted(model(PRODUCT, w=w % 256))[1] == []  # bfloat16 has these


def test_a_branch_reads_what_the_main_graph_has() -> None:
    """Alone it keeps the weight; beside a reader of the main graph both answer alike."""
    branches = (
        "If(c) <then_branch = t () => (float[2, 32] a) { a = MatMul(x, w) }, "
        "else_branch = e () => (float[2, 32] b) { d = MatMul(x, w) b = Neg(d) }>"
    )
    w = random(32, 32)
    rounded = w.astype(ml_dtypes.bfloat16).astype(np.float32)
    header = "(float[2, 32] x, bool c) => (float[2, 32] y)"
    alone, _ = converted(model(f"{header} {{ y = {branches} }}", w=w))
    assert stored(alone) == {"FLOAT": 1}
    both, _ = converted(model(f"{header} {{ h = {branches} k = MatMul(x, w) y = Add(h, k) }}", w=w))
    for truth, factor in ((True, 2), (False, 0)):
        answer = numerics.run(both, {**FEEDS, "c": np.array(truth)})["y"]
        np.testing.assert_allclose(answer, factor * FEEDS["x"] @ rounded, rtol=1e-5, atol=1e-4)
