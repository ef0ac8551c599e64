"""Products in int8 by the engine's own operators: the same numbers as the converted model's, whatever the layout."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from models.bert import SIZES, BertConfig, build_bert
from models.dialects import DIALECTS
from passes import PassManager
from passes.precision.float_to_int8 import FloatToInt8
from passes.precision.unsign_weights import UnsignWeights
from poprt.compiler import Compiler, CompilerOptions
from poprt.compiler.fuse_int8 import FuseInt8
from poprt.converter import Converter
from poprt.engine.session import EngineSession
from tests.numerics import padded, random_samples, run, run_exactly
from tests.passes.rewrites import copy_of, ops, parse
from tests.versions import no_rows

RNG = np.random.default_rng(0)
SHAPES = [(2, 5, 96), (1, 7, 96), (6, 96), (96,), (2, 3, 4, 96), pytest.param((1, 0, 96), marks=no_rows)]
FIRST_FUSED_OPSET = 14


def quantised(rank: int, *, opset: int = 17, bias: bool = True) -> onnx.ModelProto:
    """A converted product of an activation of this rank that leans to the positive side."""
    letters = ",".join([*"abcd"[: rank - 1], "96"])
    last = "p = MatMul (r, w)  y = Add (p, b)" if bias else "y = MatMul (r, w)"
    model = parse(
        f"g (float[{letters}] x) => (float y) <float lean = {{0.4}}> {{ r = Add (x, lean)  {last} }}", opset=opset
    )
    model.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((96, 80)).astype(np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal(80).astype(np.float32), "b"))
    return FloatToInt8().run(model)


def fuse_int8(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[int, int]]:
    """The model with its products fused, and how many quantisations and products were."""
    manager = PassManager([FuseInt8()])
    fused_model = manager.run(copy_of(model))
    counts = manager.records[0].result.counts
    return fused_model, (counts.get("quantisations fused", 0), counts.get("products fused", 0))


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    fused_model, _ = fuse_int8(model)
    onnx.checker.check_model(fused_model)
    assert fuse_int8(fused_model)[1] == (0, 0)
    return fused_model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("opset", [13, 14, 17, 18, 21, 23])
def test_every_layout_at_every_opset_gives_the_numbers_of_the_converted_model(
    opset: int, shape: tuple[int, ...]
) -> None:
    model = quantised(len(shape), opset=opset)
    lowered = fused(model)
    assert ops(lowered).count("MatMulIntegerToFloat") == 1
    assert "MatMulInteger" not in ops(lowered)
    assert ("Div" in ops(lowered)) == (opset < FIRST_FUSED_OPSET)
    x = RNG.standard_normal(shape).astype(np.float32) * np.float32(3)
    expected, got = run(model, {"x": x})["y"], run(lowered, {"x": x})["y"]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_a_token_does_not_depend_on_its_neighbours_to_the_last_bit() -> None:
    lowered = fused(quantised(3))
    x = RNG.standard_normal((1, 6, 96)).astype(np.float32)
    loud = x.copy()
    loud[0, 1:] *= 1000
    alone = run(lowered, {"x": x[:, :1]})["y"][0, 0]
    np.testing.assert_array_equal(run(lowered, {"x": x})["y"][0, 0], alone)
    np.testing.assert_array_equal(run(lowered, {"x": loud})["y"][0, 0], alone)


def test_rows_of_zeros_and_rows_that_are_not_finite_end_as_before() -> None:
    model = quantised(2)
    x = RNG.standard_normal((4, 96)).astype(np.float32)
    x[0], x[1, 3], x[2, 5] = -0.4, np.inf, np.nan
    expected, got = run(model, {"x": x})["y"], run(fused(model), {"x": x})["y"]
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[3], expected[3], rtol=1e-6)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))


def test_unsigned_weights_are_fused_as_well() -> None:
    model = quantised(3)
    lowered, counts = fuse_int8(UnsignWeights().run(copy_of(model)))
    kinds = {tensor.data_type for tensor in lowered.graph.initializer if len(tensor.dims) == 2}
    assert kinds == {onnx.TensorProto.UINT8}
    assert counts == (1, 1)
    x = RNG.standard_normal((2, 5, 96)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})  # numpy: some kernels for int8 weights overflow
    np.testing.assert_allclose(run(lowered, {"x": x})["y"], expected, rtol=1e-6, atol=1e-6)


def test_products_that_share_an_activation_share_its_quantisation() -> None:
    text = "g (float[a,b,96] x) => (float p, float q) { p = MatMul (x, w)  q = MatMul (x, v) }"
    model = parse(text)
    for name in "wv":
        model.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((96, 80)).astype(np.float32), name))
    model = FloatToInt8().run(model)
    lowered, counts = fuse_int8(model)
    assert counts == (1, 2)
    x = RNG.standard_normal((2, 5, 96)).astype(np.float32)
    expected, got = run(model, {"x": x}), run(lowered, {"x": x})
    for name in "pq":
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kept", ["y_int32", "y_sums", "r_scaled"])
def test_a_tensor_that_is_read_elsewhere_stays(kept: str) -> None:
    model = quantised(2, bias=False)
    kind = {"y_int32": onnx.TensorProto.INT32}.get(kept, onnx.TensorProto.FLOAT)
    model.graph.output.append(onnx.helper.make_tensor_value_info(kept, kind, ["n", None]))
    del model.graph.value_info[:]  # it says less of the tensor
    lowered = fused(model)
    assert kept in {name for node in lowered.graph.node for name in node.output}
    x = RNG.standard_normal((4, 96)).astype(np.float32)
    expected, got = run(model, {"x": x}), run(lowered, {"x": x})
    np.testing.assert_array_equal(got[kept], expected[kept])
    np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-6, atol=1e-6)


def test_a_tensor_that_a_subgraph_reads_stays() -> None:
    model = quantised(2, bias=False)
    text = """g (bool c) => (float z) { z = If (c) <
        then_branch = t () => (float p) { p = Cast <to = 1> (y_int32) },
        else_branch = e () => (float q) { q = Neg (y_sums) }> }"""
    model.graph.node.extend(parse(text).graph.node)
    model.graph.input.extend(parse(text).graph.input)
    model.graph.output.extend(parse(text).graph.output)
    lowered, counts = fuse_int8(model)
    assert counts == (1, 0)
    feeds = {"x": RNG.standard_normal((4, 96)).astype(np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(run(lowered, feeds)["z"], run(model, feeds)["z"])


@pytest.mark.parametrize(
    ("step", "one"),
    [
        ("h = ReduceMax <axes = [-2]> (x)  m = Mul (h, one)  s = Max (m, one)", "one"),
        ("h = ReduceMax <axes = [-1]> (other)  m = Mul (h, one)  s = Max (m, one)", "one"),
        ("h = ReduceMax <axes = [-1]> (x)  m = Mul (h, one)  s = Max (m, other)", "one"),
        ("h = ReduceMax <axes = [-1]> (x)  m = Mul (h, other)  s = Max (m, one)", "one"),
        ("h = ReduceMax <axes = [-1], keepdims = 0> (x)  m = Mul (h, one)  s = Max (m, one)", "one"),
        ("h = ReduceMax <axes = [-1]> (x)  m = Mul (h, one)  s = Max (m, one)", "two"),
        ("s = Neg (x)", "one"),
    ],
)
def test_another_quantisation_is_left_alone(step: str, one: str) -> None:
    constants = "float one = {1}, float two = {2}, uint8 z = {128}"
    body = f"{step}  d = Div (x, s)  y = QuantizeLinear (d, {one}, z)"
    model = parse(f"g (float[n,n] x, float[n,n] other) => (uint8[n,n] y) <{constants}> {{ {body} }}")
    after, counts = fuse_int8(model)
    assert counts == (0, 0)
    assert ops(after) == ops(model)


@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize("packed", [False, True])
def test_every_product_of_a_compiled_model_is_fused(dialect: str, packed: bool) -> None:
    model = build_bert(dataclasses.replace(BertConfig(**SIZES["tiny"], head="token"), dialect=dialect))
    shapes = {value.name: [2, 32] for value in model.graph.input} if packed else None
    pack_args = {"max_valid_num": 8, "segment_max_size": 32} if packed else None
    converted = Converter(precision="int8", input_shape=shapes, pack_args=pack_args).convert(model)
    op_types = ops(onnx.load_from_string(Compiler.compile(converted).graph))
    assert op_types.count("MatMulIntegerToFloat") == 12
    assert "MatMulInteger" not in op_types
    assert op_types.count("QuantizeLinear") == op_types.count("Flatten") == 8


def test_replaceable_scales_take_part() -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="token"))
    converted = Converter(precision="int8").convert(model)
    feeds = padded(random_samples([7, 12]))
    results = []
    for constant in (True, False):
        executable = Compiler.compile(converted, None, CompilerOptions(constant_weights=constant))
        session = EngineSession(executable, threads=1)
        results.append(session.run(feeds)[0])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)
    scales = {name: array for name, array in session.variable_weights.items() if name.endswith("_scale")}
    assert len(scales) >= 12
    for tensor in converted.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(numpy_helper.from_array(scales[tensor.name] * np.float32(1.5), tensor.name))
    session.update_weights({name: array * np.float32(1.5) for name, array in scales.items()})
    changed = session.run(feeds)[0]
    expected = run_exactly(converted, {name: array.astype(np.int32) for name, array in feeds.items()})["logits"]
    np.testing.assert_allclose(changed, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(changed - results[0]).max() > 0.01
