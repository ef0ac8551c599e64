"""The first cause is the one that a refusal names: not the shape where an input is, not tokens where int8 is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

from passes.errors import PackingError
from tests.passes.packing.test_fixed_inputs import LAYOUTS, packed
from tests.passes.rewrites import parse

_RNG = np.random.default_rng(0)
_ATTENTION = """
    flip = Transpose <perm = [0, 2, 1]> (x)  scores = MatMul (x, flip)  {more}  w = Softmax (told)  z = MatMul (w, x)
"""


def model(inputs: str, body: str, **constants: Any) -> onnx.ModelProto:
    text = f"g ({inputs}) => (float[b, s, 8] y) {{ {body} }}"
    built = parse(text, opset=17)
    for name, value in constants.items():
        built.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return built


def weights(*shape: int) -> np.ndarray[Any, Any]:
    return _RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_input_of_pairs_is_named_and_not_the_shape(layout: str) -> None:
    attention = _ATTENTION.format(more="told = Add (scores, bias)")
    body = f"e = Gather (T, ids)  x = MatMul (e, W)  {attention}  y = Relu (z)"
    pairs = model("int64[1, 9] ids, float[1, 9, 9] bias", body, T=weights(64, 8), W=weights(8, 8))
    message = r"Add 'told': reads the input 'bias' with the sequence on axis 2 too" if layout == "across_rows" else "."
    with pytest.raises(PackingError, match=message) as error:
        packed(pairs, layout)
    assert "fixed to the shape" not in str(error.value)


def test_an_open_input_of_pairs_is_named_within_rows() -> None:
    attention = _ATTENTION.format(more="told = Add (scores, bias)")
    body = f"e = Gather (T, ids)  x = MatMul (e, W)  {attention}  y = Relu (z)"
    pairs = model("int64[b, s] ids, float[b, s, s] bias", body, T=weights(64, 8), W=weights(8, 8))
    with pytest.raises(PackingError, match=r"input 'bias' \['b', 's', 's'\] has a value for each pair of places, and"):
        packed(pairs, "within_rows")


def test_a_model_without_a_mask_is_told_so_and_not_that_its_shape_is_fixed() -> None:
    body = (
        f"e = Gather (T, ids)  x = MatMul (e, W)  {_ATTENTION.format(more='told = Relu (scores)')}  y = Div (z, nine)"
    )
    built = model("int64[1, 9] ids", body, T=weights(64, 8), W=weights(8, 8), nine=np.float32(9))
    with pytest.raises(PackingError, match="no input of this model serves as an attention mask alone"):
        packed(built, "within_rows")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("1, 9, 20", "MatMul 'x': multiplies axis 1 of the inputs by a constant matrix: it holds features"),
        ("b, 9, s", r"input 'features' \['b', 9, 's'\] varies along axis 2"),
    ],
    ids=["fixed", "open"],
)
def test_a_sequence_on_axis_2_is_named(layout: str, shape: str, message: str) -> None:
    attention = _ATTENTION.format(more="told = Relu (scores)")
    body = f"t = Transpose <perm = [0, 2, 1]> (features)  x = MatMul (t, W)  {attention}  y = Relu (z)"
    sizes = (3, 20) if shape[0] == "b" else None
    with pytest.raises(PackingError, match="mask" if layout == "within_rows" and sizes is None else message):
        packed(model(f"float[{shape}] features", body, W=weights(9, 8)), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["1, 80, 30", "4, 12, 20"])
def test_features_that_a_convolution_reads_are_no_sequence(layout: str, shape: str) -> None:
    attention = _ATTENTION.format(more="told = Relu (scores)")
    body = f"c = Conv <pads = [1, 1]> (features, K)  x = Transpose <perm = [0, 2, 1]> (c)  {attention}  y = Relu (z)"
    kernel = weights(8, int(shape.split(", ")[1]), 3)
    with pytest.raises(PackingError, match=r"mask|Conv 'c': convolves axis 1 of the inputs as channels") as error:
        packed(model(f"float[{shape}] features", body, K=kernel), layout)
    assert layout == "within_rows" or "Conv 'c': convolves" in str(error.value)


@pytest.mark.parametrize(
    ("quantised", "message"),
    [
        ("q = Cast <to = 2> (e)  p = MatMulInteger (q, W)", "1 matrix products of this model are already quantised"),
        ("q, scale, at = DynamicQuantizeLinear (e)  p = MatMulInteger (q, W, at)", "Give --requantize"),
    ],
    ids=["levels of its own", "one scale a tensor"],
)
def test_a_quantised_model_is_told_so(quantised: str, message: str) -> None:
    body = f"""e = Gather (T, ids)  {quantised}  f = Cast <to = 1> (p)  half = Constant <value_float = 0.5> ()
               x = Mul (f, {"scale" if "scale" in quantised else "half"})  flip = Transpose <perm = [0, 2, 1]> (x)
               scores = MatMul (x, flip)  w = Softmax (scores)  y = MatMul (w, x)"""
    integers = _RNG.integers(-127, 128, (8, 8)).astype(np.int8)
    built = model("int64[b, s] ids", body, T=weights(64, 8), W=integers)
    with pytest.raises(PackingError, match=message) as error:
        packed(built, "across_rows", shape=(3, 9))
    assert "MatMulInteger 'p'" in str(error.value)


@pytest.mark.parametrize("batch", ["b", "2", "?", "-1"])
@pytest.mark.parametrize("extents", ["-1, -1", "?, ?", "h, ?", "h, w"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_channels_of_pictures_of_open_size_are_no_sequence(layout: str, extents: str, batch: str) -> None:
    pictures = model("float[b, 3, 32, 32] pictures", "c = Conv (pictures, K)  y = Relu (c)", K=weights(8, 3, 3, 3))
    for output in pictures.graph.output:
        output.type.tensor_type.ClearField("shape")
    dims = pictures.graph.input[0].type.tensor_type.shape.dim
    for dim, extent in zip((dims[0], *dims[2:]), (batch, *extents.split(", ")), strict=True):
        dim.Clear()
        if extent.lstrip("-").isdigit():
            dim.dim_value = int(extent)
        else:
            dim.dim_param = extent
    with pytest.raises(PackingError, match=r"input 'pictures' .* varies along axes 2 and 3; packing takes") as error:
        packed(pictures, layout)
    assert "segment_max_size" not in str(error.value)


_IN_FOURS = """fours = Constant <value_ints = [-1, 3, 32]> ()  r = Reshape (x, fours)  p = MatMul (r, U)
               back = Constant <value_ints = [{rows}, 12, 8]> ()  y = Reshape (p, back)"""


def in_fours(first: str, body: str, rows: int = -1) -> onnx.ModelProto:
    """Four places at a time go through a matrix, as in a byte classifier whose sequence is a multiple of four."""
    text = f"{body} {_IN_FOURS.format(rows=rows)}"
    return model(f"int64[{first}, 12] ids", text, T=weights(64, 8), U=weights(32, 32), W=weights(8, 8))


@pytest.mark.parametrize("first", ["b", "4"], ids=["sequence", "both"])
def test_a_shape_in_which_nothing_packs_is_not_advised(first: str) -> None:
    built = in_fours(first, "x = Gather (T, ids)")
    with pytest.raises(PackingError, match=r"cannot be undone \(Reshape") as error:
        packed(built, "across_rows", longest=9, shape=(4, 12))
    cause = "no matrix product of this model treats every token alone, .*MatMul 'p': none of its inputs carries tokens"
    assert re.search(f"nor does it pack in its own shape: {cause}", str(error.value))
    assert "use " not in str(error.value)
    with pytest.raises(PackingError, match=cause):
        packed(built, "across_rows", longest=12, most=4, shape=(4, 12))


def test_a_shape_in_which_an_output_is_no_row_a_sample_is_not_advised() -> None:
    built = in_fours("b", "t = Gather (T, ids)  x = MatMul (t, W)")
    obstacle = "output 'y' .* does not hold one row a sample"
    with pytest.raises(PackingError, match=f"nor does it pack in its own shape: {obstacle}"):
        packed(built, "across_rows", longest=9, shape=(4, 12))
    with pytest.raises(PackingError, match=obstacle):
        packed(built, "across_rows", longest=12, shape=(4, 12))


@pytest.mark.parametrize("longest", [2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_channels_of_pictures_of_fixed_size_are_no_sequence(layout: str, longest: int) -> None:
    pictures = model("float[b, 3, 32, 32] pictures", "c = Conv (pictures, K)  y = Relu (c)", K=weights(8, 3, 3, 3))
    for output in pictures.graph.output:
        output.type.tensor_type.ClearField("shape")
    with pytest.raises(PackingError, match="Conv 'c': convolves axis 1 of the inputs as channels") as error:
        packed(pictures, layout, longest=longest)
    assert "segment_max_size" not in str(error.value)
