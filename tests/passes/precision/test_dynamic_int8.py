"""Products that are quantised as they run: lifted to floats, and lowered to a scale a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from passes.base import PassResult
from passes.errors import PackingError
from passes.graph_io import export_graph, import_graph
from passes.packing.insert_attention_mask import InsertAttentionMask
from passes.packing.packed_transformer import PackedTransformer
from passes.precision.lift_dynamic_int8 import LiftDynamicInt8
from passes.precision.lower_dynamic_int8 import LowerDynamicInt8
from passes.precision.shared_scales import shared_scales
from poprt.compiler.fuse_int8 import FuseInt8
from tests.dynamic_int8 import optimised, quantised_as_it_runs
from tests.numerics import run, run_exactly
from tests.passes.rewrites import copy_of, ops, parse, say_packed

RNG = np.random.default_rng(0)
Arrays = dict[str, NDArray[Any]]


def with_arrays(text: str, arrays: Arrays, *, opset: int = 17) -> onnx.ModelProto:
    model = parse(text, opset=opset)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())
    return model


def levels(dtype: str, low: int, high: int) -> NDArray[Any]:
    return RNG.integers(low, high, (96, 80)).astype(dtype)


SCALES = {"a tensor": np.float32(0.01), "a column": RNG.uniform(0.005, 0.02, 80).astype(np.float32)}
POINTS: dict[str, Arrays] = {
    "none": {"w": levels("int8", -63, 64)},
    "zero": {"w": levels("int8", -63, 64), "z": np.int8(0)},
    "middle": {"w": levels("uint8", 65, 192), "z": np.uint8(128)},
    "low": {"w": levels("uint8", 0, 100), "z": np.uint8(50)},
    "signed": {"w": levels("int8", -60, 40), "z": np.int8(-10)},
    "a column": {"w": levels("uint8", 0, 100), "z": RNG.integers(40, 60, 80).astype(np.uint8)},
    "alike": {"w": levels("uint8", 65, 192), "z": np.full(80, 128, np.uint8)},
}

SPELLINGS = {
    "apart": "c = Cast <to = 1> (i)  f = Mul (s, ws)  y = Mul (c, f)",
    "the other way round": "c = Cast <to = 1> (i)  f = Mul (ws, s)  y = Mul (f, c)",
    "one by one": "c = Cast <to = 1> (i)  f = Mul (c, ws)  y = Mul (f, s)",
    "the step first": "c = Cast <to = 1> (i)  f = Mul (s, c)  y = Mul (f, ws)",
}


def dynamic(spelling: str = "apart", point: str = "none", scale: str = "a column", opset: int = 17) -> onnx.ModelProto:
    """y = x @ W, with x quantised as a whole."""
    arrays = POINTS[point] | {"ws": SCALES[scale]}
    zero = ", z" if "z" in arrays else ""
    body = f"q, s, p = DynamicQuantizeLinear (x)  i = MatMulInteger (q, w, p{zero})  {SPELLINGS[spelling]}"
    return with_arrays(f"g (float[a,b,96] x) => (float[a,b,80] y) {{ {body} }}", arrays, opset=opset)


def apply(step: LiftDynamicInt8 | LowerDynamicInt8, model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassResult]:
    graph = import_graph(copy_of(model))
    result = step.apply(graph)
    applied = export_graph(graph)
    onnx.checker.check_model(applied, full_check=True)
    return applied, result


def requantised(model: onnx.ModelProto) -> onnx.ModelProto:
    lifted, _ = apply(LiftDynamicInt8(), model)
    lowered, _ = apply(LowerDynamicInt8(), lifted)
    for step in (LiftDynamicInt8(), LowerDynamicInt8()):
        assert apply(step, lowered)[1].counts == {}
    return lowered


def exact(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x times what the integers of ``dynamic`` stand for."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    product: NDArray[np.float32] = x @ ((arrays["w"].astype(np.float32) - arrays.get("z", 0)) * arrays["ws"])
    return product


def relative(expected: NDArray[Any], got: NDArray[Any]) -> float:
    return float(np.linalg.norm(expected - got) / np.linalg.norm(expected))


@pytest.mark.parametrize("scale", list(SCALES))
@pytest.mark.parametrize("point", list(POINTS))
def test_a_product_keeps_what_its_integers_stand_for(point: str, scale: str) -> None:
    model = dynamic(point=point, scale=scale)
    x = RNG.standard_normal((2, 3, 96)).astype(np.float32)
    lifted, result = apply(LiftDynamicInt8(), model)
    assert result.counts == {"dynamic products lifted": 1}
    assert sorted(ops(lifted)) == ["DequantizeLinear", "MatMul"]
    np.testing.assert_allclose(run(lifted, {"x": x})["y"], exact(model, x), rtol=1e-4, atol=1e-4)
    lowered = requantised(model)
    assert shared_scales(lowered) == ()
    assert ops(lowered).count("MatMulInteger") == 1
    assert 1e-4 < relative(exact(model, x), run_exactly(lowered, {"x": x})["y"]) < 0.015


@pytest.mark.parametrize("spelling", list(SPELLINGS))
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_every_spelling_of_the_scales_is_understood(spelling: str, opset: int) -> None:
    model = dynamic(spelling, opset=opset)
    x = RNG.standard_normal((2, 3, 96)).astype(np.float32)
    got = run_exactly(requantised(model), {"x": x})["y"]
    assert relative(exact(model, x), got) < 0.015


def test_the_integers_of_a_weight_stay_as_they_are() -> None:
    lowered = requantised(dynamic(point="zero"))
    (stored,) = [numpy_helper.to_array(item) for item in lowered.graph.initializer if len(item.dims) == 2]
    np.testing.assert_array_equal(stored, POINTS["zero"]["w"])
    unsigned = requantised(dynamic(point="middle"))
    (stored,) = [numpy_helper.to_array(item) for item in unsigned.graph.initializer if len(item.dims) == 2]
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored.astype(int), POINTS["middle"]["w"].astype(int) - 128)


def test_a_token_depends_on_no_other_afterwards_and_did_before() -> None:
    model = dynamic()
    x = RNG.standard_normal((1, 6, 96)).astype(np.float32)
    loud = x.copy()
    loud[0, 1:] *= 20
    moved = run(model, {"x": x})["y"][0, 0] - run(model, {"x": loud})["y"][0, 0]
    assert np.abs(moved).max() > 0.01 * np.abs(exact(model, x)[0, 0]).max()
    lowered = requantised(model)
    got, beside = (run_exactly(lowered, {"x": each})["y"][0, 0] for each in (x, loud))
    np.testing.assert_array_equal(got, beside)


@pytest.mark.parametrize("point", list(POINTS))
def test_the_compiler_has_its_fast_product_for_it(point: str) -> None:
    model = requantised(dynamic(point=point))
    fused = FuseInt8().run(copy_of(model))
    assert ops(fused).count("MatMulIntegerToFloat") == 1
    assert {"MatMulInteger", "Div"}.isdisjoint(ops(fused))
    x = RNG.standard_normal((2, 3, 96)).astype(np.float32)
    np.testing.assert_allclose(run(fused, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_the_forms_that_the_engine_fuses_are_understood(bias: bool) -> None:
    added = ", b" if bias else ""
    arrays = {"w": POINTS["none"]["w"], "ws": SCALES["a column"], "z": np.zeros(80, np.int8)}
    arrays["b"] = RNG.standard_normal(80).astype(np.float32)
    apart = f"""q, s, p = DynamicQuantizeLinear (x)
        y = com.microsoft.MatMulIntegerToFloat (q, w, s, ws, p, z{added})"""
    for body in (apart, f"y = com.microsoft.DynamicQuantizeMatMul (x, w, ws, z{added})"):
        model = with_arrays(f"g (float[a,b,96] x) => (float[a,b,80] y) {{ {body} }}", arrays)
        x = RNG.standard_normal((2, 3, 96)).astype(np.float32)
        lowered = requantised(model)
        assert shared_scales(model)
        assert not shared_scales(lowered)
        expected = exact(model, x) + (arrays["b"] if bias else 0)
        assert relative(expected, run_exactly(lowered, {"x": x})["y"]) < 0.015


def test_two_activations_become_a_product_of_floats() -> None:
    text = """g (float[a,b,96] x, float[a,96,c] v) => (float[a,b,c] y) {
        q, s, p = DynamicQuantizeLinear (x)  r, t, o = DynamicQuantizeLinear (v)
        i = MatMulInteger (q, r, p, o)  n = Cast <to = 1> (i)  f = Mul (s, t)  y = Mul (n, f) }"""
    lowered = requantised(parse(text))
    assert ops(lowered) == ["MatMul"]


def test_products_of_one_activation_share_its_quantisation_and_a_shared_weight_is_stored_once() -> None:
    text = """g (float[a,96] x) => (float[a,80] y, float[a,80] z) {
        q, s, p = DynamicQuantizeLinear (x)  f = Mul (s, ws)
        i = MatMulInteger (q, w, p)  c = Cast <to = 1> (i)  y = Mul (c, f)
        j = MatMulInteger (q, w, p)  d = Cast <to = 1> (j)  z = Mul (d, f) }"""
    lowered = requantised(with_arrays(text, {"w": POINTS["none"]["w"], "ws": SCALES["a column"]}))
    assert ops(lowered).count("QuantizeLinear") == 1
    assert sum(len(tensor.dims) == 2 for tensor in lowered.graph.initializer) == 1


def test_the_scale_a_tensor_comes_back_where_that_is_asked_for() -> None:
    model = dynamic()
    lifted, _ = apply(LiftDynamicInt8(), model)
    lowered, result = apply(LowerDynamicInt8(a_token=False), lifted)
    assert result.counts == {"products with a scale a tensor": 1}
    assert ops(lowered) == ops(model)
    x = RNG.standard_normal((2, 3, 96)).astype(np.float32)
    np.testing.assert_allclose(run(lowered, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-5, atol=1e-5)


def convolution(point: str, scale: str = "ws") -> onnx.ModelProto:
    """y = a convolution of x, which is quantised as a whole, in the form of onnxruntime's quantiser."""
    arrays: Arrays = {"w": RNG.integers(65, 192, (16, 8, 3, 3)).astype(np.uint8), "z": np.uint8(128)}
    if point == "signed":
        arrays = {"w": (arrays["w"].astype(int) - 128).astype(np.int8), "z": np.int8(0)}
    body = f"""q, s, p = DynamicQuantizeLinear (x)
        i = ConvInteger <pads = [1, 1, 1, 1], strides = [2, 1]> (q, w, p, z)
        c = Cast <to = 1> (i)  f = Mul (s, {scale})  y = Mul (c, f)"""
    arrays["ws"] = np.float32(0.01).reshape(1)
    return with_arrays(f"g (float[n,8,h,v] x) => (float[n,16,k,l] y) {{ {body} }}", arrays)


@pytest.mark.parametrize("point", ["middle", "signed"])
def test_a_convolution_gets_a_scale_a_sample(point: str) -> None:
    model = convolution(point)
    lifted, _ = apply(LiftDynamicInt8(), model)
    lowered, result = apply(LowerDynamicInt8(), lifted)
    assert result.counts == {"convolutions with a scale a sample": 1}
    assert shared_scales(lowered) == ()
    x = RNG.standard_normal((2, 8, 6, 5)).astype(np.float32)
    loud = x * np.array([1, 20], np.float32).reshape(2, 1, 1, 1)
    expected = run(lifted, {"x": loud})["y"]
    before, after = run(model, {"x": loud})["y"], run(lowered, {"x": loud})["y"]
    assert relative(expected[0], after[0]) < 0.02 < relative(expected[0], before[0])
    np.testing.assert_array_equal(after[0], run(lowered, {"x": x})["y"][0])


def test_a_convolution_in_a_pack_stays_dequantised_for_there_a_row_is_no_sample() -> None:
    lifted, _ = apply(LiftDynamicInt8(), convolution("middle"))
    say_packed(lifted)
    lowered, result = apply(LowerDynamicInt8(), lifted)
    assert sorted(ops(lowered)) == ["Conv", "DequantizeLinear"]
    assert "Conv computes with it in float32" in result.refusals[0].reason
    as_it_was, _ = apply(LowerDynamicInt8(a_token=False), lifted)
    assert ops(as_it_was) == ops(convolution("middle"))


def test_a_model_between_the_two_passes_says_so_in_no_finished_model() -> None:
    lifted, _ = apply(LiftDynamicInt8(), dynamic())
    assert [item.key for item in lifted.metadata_props] == ["poprt.lifted_weights"]
    assert not requantised(dynamic()).metadata_props


QUANTISED = "q, s, p = DynamicQuantizeLinear (x)"
KEPT = {
    "a convolution of an unknown scale": (
        f"{QUANTISED}  i = ConvInteger (q, v, p)  c = Cast <to = 1> (i)  f = Mul (s, t)  y = Mul (c, f)",
        "(ConvInteger, Mul) is no product",
    ),
    "a recurrence": (
        "y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 4> (x, w, w, , , , , , k, z, k, z)",
        "recurrence with a scale a token",
    ),
    "sums that are read": (f"{QUANTISED}  y = MatMulInteger (q, w, p)", "(MatMulInteger) is no product"),
    "levels that are read": (f"{QUANTISED}  y = DequantizeLinear (q, s, p)", "(DequantizeLinear) is no product"),
    "a computed weight": (
        f"{QUANTISED}  o = Identity (w)  i = MatMulInteger (q, o, p)  c = Cast <to = 1> (i)  y = Mul (c, s)",
        "(MatMulInteger, Mul) is no product",
    ),
    "a subgraph": (
        f"""y = If (u) <then_branch = t () => (float[a,b,96] m) {{ {QUANTISED}  m = DequantizeLinear (q, s, p) }},
            else_branch = e () => (float[a,b,96] n) {{ n = Identity (x) }}>""",
        "it lies in a subgraph",
    ),
}


@pytest.mark.parametrize("kind", list(KEPT))
def test_what_keeps_its_scale_is_named_with_the_reason(kind: str) -> None:
    body, reason = KEPT[kind]
    arrays = {"w": POINTS["none"]["w"], "v": np.ones((4, 96, 1), np.int8), "t": np.ones(4, np.float32)}
    arrays |= {"u": np.array(True), "k": np.float32(1), "z": np.int8(0)}
    model = with_arrays(f"g (float[a,b,96] x) => (y) {{ {body} }}", arrays)
    graph = import_graph(model)
    result = LiftDynamicInt8().apply(graph)
    assert not result.modified
    assert len(shared_scales(model)) == len(result.refusals) == 1
    assert str(result.refusals[0]).startswith(shared_scales(model)[0])
    assert reason in result.refusals[0].reason


def test_a_model_of_one_sample_shares_its_scales_with_nobody() -> None:
    model = dynamic()
    assert shared_scales(model) == ("DynamicQuantizeLinear 'q'",)
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.dim_value = 1
    assert shared_scales(model) == ()
    dim.dim_value = 2
    assert len(shared_scales(model)) == 1
    dim.dim_value = 1
    say_packed(model)  # a pack has samples in one row, too
    assert len(shared_scales(model)) == 1
    say_packed(model, neighbours="none")
    assert shared_scales(model) == ()


@pytest.mark.parametrize("packing", [PackedTransformer, InsertAttentionMask])
@pytest.mark.parametrize("form", [lambda model: model, optimised])
def test_packing_refuses_shared_scales_with_the_options_that_help(
    packing: Callable[..., Any], form: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    model = with_arrays(
        "g (float[a,b,96] x, int64[a,b] m) => (float[a,b,80] y) { y = MatMul (x, w) }",
        {"w": RNG.standard_normal((96, 80)).astype(np.float32)},
    )
    quantised = form(quantised_as_it_runs(model))
    step = packing(pack_args={"max_valid_num": 4, "segment_max_size": 8}, input_shape={"x": [2, 8, 96], "m": [2, 8]})
    with pytest.raises(PackingError, match=r"1 products \(.*--requantize.*--pack_shared_scales"):
        step.apply(import_graph(quantised))
