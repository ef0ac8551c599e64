"""Lengths in place of a mask: the pass removes the input and computes it from the pack."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes.errors import PackingError
from passes.manager import PassManager
from passes.packing.packed_transformer import PackedTransformer
from poprt.compiler import Compiler
from poprt.engine.session import EngineSession
from tests.numerics import Arrays, run
from tests.passes.packing.packs import COLUMNS, LENGTHS, PACK_ARGS, ROWS, TOLERANCE, metadata, pack
from tests.passes.rewrites import copy_of, parse

TOKENS, FEATURES = "int64[batch, seq] tokens", "float[batch, seq, 6] tokens"
_EMBED = {TOKENS: "e = Gather (T, tokens)", FEATURES: "e = MatMul (tokens, E)"}

STRICT = """n = Shape <start = 1, end = 2> (tokens)  count = Squeeze (n)  places = Range (ZERO, count, ONE)
    column = Unsqueeze (lengths, one)  keep = Less (places, column)"""
#: How exporters spell the mask: ``keep`` [batch, seq] is true at the tokens.
SPELLINGS = {
    "places below the lengths": STRICT,
    "lengths above the places": STRICT.replace("Less (places, column)", "Greater (column, places)"),
    "places counted from one": STRICT.replace("ZERO", "ONE").replace("count,", "more,").replace(
        "places =", "more = Add (count, ONE)  places ="
    ).replace("Less", "LessOrEqual"),
    "true at padding": STRICT.replace("keep = Less", "pad = GreaterOrEqual") + "  keep = Not (pad)",
    "places repeated for each sample": STRICT.replace(
        "keep = Less (places, column)",
        "size = Shape (tokens)  two = Slice (size, zero, TWO)  grid = Expand (places, two)  keep = Less (grid, column)",
    ),
    "in floats": STRICT.replace(
        "keep = Less (places, column)", "p = Cast <to = 1> (places)  c = Cast <to = 1> (column)  keep = Less (p, c)"
    ),
    "counted to the largest": STRICT.replace(
        "n = Shape <start = 1, end = 2> (tokens)  count = Squeeze (n)", "count = ReduceMax <keepdims = 0> (lengths)"
    ),
}  # fmt: skip
MEAN = """column3 = Unsqueeze (weights, last)  kept = Mul (z, column3)  total = ReduceSum <keepdims = 0> (kept, one)
    number = Cast <to = 1> (lengths)  by = Unsqueeze (number, one)  y = Div (total, by)"""
EVERY = "y = Identity (z)"


def encoder(
    spelling: str, after: str = EVERY, tokens: str = TOKENS, lengths: str = "int64[batch] lengths"
) -> onnx.ModelProto:
    model = parse(
        f"""
        g ({tokens}, {lengths}) => (float y) {{
            {_EMBED[tokens]}
            {spelling}
            weights = Cast <to = 1> (keep)
            q = MatMul (e, Q)
            et = Transpose <perm = [0, 2, 1]> (e)
            raw = MatMul (q, et)
            key = Unsqueeze (keep, one)
            low = Constant <value_float = -1e9> ()
            scores = Where (key, raw, low)
            w = Softmax (scores)
            mixed = MatMul (w, e)
            z = MatMul (mixed, W)
            {after}
        }}
        """
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    weights = {"T": (64, 8), "E": (6, 8), "Q": (8, 8), "W": (8, 8)}
    constants: dict[str, Any] = {name: (rng.normal(size=size) / 3).astype(np.float32) for name, size in weights.items()}
    constants |= {name: np.array(v) for name, v in {"zero": [0], "one": [1], "last": [-1], "TWO": [2]}.items()}
    constants |= {"ZERO": np.array(0), "ONE": np.array(1)}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in constants if name in read)
    return model


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    first = model.graph.input[0]
    rest = [dim.dim_value for dim in first.type.tensor_type.shape.dim][2:]
    steps = ["extract_constant_to_initializer", "constant_folding", "eliminate_identity"]
    step = PackedTransformer(PACK_ARGS, {first.name: [ROWS, COLUMNS, *rest]})
    packed = PassManager([*steps, step]).run(copy_of(model))
    onnx.checker.check_model(packed, full_check=True)
    return packed


def drawn(tokens: str, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    if tokens == TOKENS:
        return [rng.integers(1, 64, length) for length in LENGTHS]
    return [rng.normal(size=(length, 6)).astype(np.float32) for length in LENGTHS]


def feeds(batch: list[np.ndarray[Any, Any]]) -> Arrays:
    if batch[0].ndim == 1:
        return pack([{"tokens": tokens} for tokens in batch])
    stream = np.concatenate(batch)
    grid = np.pad(stream, ((0, ROWS * COLUMNS - len(stream)), (0, 0))).reshape(ROWS, COLUMNS, -1)
    return {"tokens": grid, "unpack_info": pack([{"t": np.ones(len(item))} for item in batch])["unpack_info"]}


def assert_right(got: np.ndarray[Any, Any], model: onnx.ModelProto, batch: list[np.ndarray[Any, Any]]) -> None:
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[1].type.tensor_type.elem_type)
    for row, tokens in enumerate(batch):
        want = run(model, {"tokens": tokens[None], "lengths": np.array([len(tokens)], kind)})["y"][0]
        np.testing.assert_allclose(got[row][tuple(map(slice, want.shape))], want, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("tokens", [TOKENS, FEATURES], ids=["ids", "features"])
@pytest.mark.parametrize("after", [EVERY, MEAN], ids=["every token", "mean by lengths"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_lengths_are_computed_and_neighbours_change_nothing(spelling: str, after: str, tokens: str) -> None:
    model = encoder(SPELLINGS[spelling], after, tokens)
    packed = convert(model)
    assert [value.name for value in packed.graph.input] == ["tokens", "unpack_info"]
    said = metadata(packed)
    assert (said["sample_inputs"], said["neighbours"], said["mask"]) == ([], "any", "")
    batch, others = drawn(tokens), drawn(tokens, seed=1)
    got = run(packed, feeds(batch))["y"]
    assert_right(got, model, batch)
    beside = run(packed, feeds([batch[0], *others[1:5], batch[5]]))["y"]
    np.testing.assert_array_equal(got[[0, 5]], beside[[0, 5]])


@pytest.mark.parametrize("tokens", [TOKENS, FEATURES], ids=["ids", "features"])
def test_the_ragged_graph_computes_them_too(tokens: str) -> None:
    model = encoder(STRICT, MEAN, tokens)
    executable = Compiler.compile(convert(model))
    batch = drawn(tokens)[:3]
    lengths = np.array([[len(item)] for item in batch], np.int32)
    got = EngineSession(executable).run({"tokens": np.concatenate(batch)[None], "unpack_info": lengths}, ["y"])[0]
    assert_right(got, model, batch)


@pytest.mark.parametrize("name", ["number", "x_lens", "amount"])
def test_the_data_flow_tells_lengths_and_not_their_name(name: str) -> None:
    model = encoder(STRICT.replace("lengths", name), lengths=f"int64[batch] {name}")
    assert [value.name for value in convert(model).graph.input] == ["tokens", "unpack_info"]


def test_lengths_of_another_type_are_counted_in_that_type() -> None:
    spelling = STRICT.replace("column =", "wide = Cast <to = 7> (lengths)  column =").replace(
        "(lengths, one)", "(wide, one)"
    )
    model = encoder(spelling, MEAN, lengths="int32[batch] lengths")
    batch = drawn(TOKENS)
    assert_right(run(convert(model), feeds(batch))["y"], model, batch)


def test_the_length_of_a_prefix_is_not_that_of_the_sample() -> None:
    model = encoder(STRICT.replace("lengths", "prefix_length"), lengths="int64[batch] prefix_length")
    said = metadata(convert(model))
    assert (said["sample_inputs"], said["neighbours"]) == (["prefix_length"], "same_length")


def test_a_bound_that_is_not_compared_with_the_places_is_refused_by_name() -> None:
    spelling = SPELLINGS["counted to the largest"].replace(
        "keep = Less (places, column)", "half = Sub (column, one)  keep = Less (places, half)"
    )
    with pytest.raises(PackingError, match="input 'lengths' decides how far the model counts"):
        convert(encoder(spelling))
