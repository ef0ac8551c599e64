"""Small encoders behind a front end that changes the length of a sample: strides, pooling, a token put in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from tests.numerics import Arrays
from tests.passes.rewrites import copy_of, parse

ROWS, COLUMNS, MOST, FEATURES, HIDDEN, USER = 3, 48, 10, 6, 8, 5
LENGTHS = [9, 48, 7, 17, 10, 30, 8, 11, 12, 25, 7, 47, 31, 13]

#: From x [batch, places, 8] and keep float [batch, places] on.
_ENCODER = """
    q = MatMul (x, W)  k = MatMul (x, W1)  v = MatMul (x, W2)
    turned = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul (q, turned)
    lack = Sub (float_one, keep)  row = Unsqueeze (lack, one)  penalty = Mul (row, far)
    masked_scores = Add (scores, penalty)
    shares = Softmax <axis = -1> (masked_scores)
    mixed = MatMul (shares, v)
    hidden = Add (x, mixed)
    column = Unsqueeze (keep, last)  of_places = Mul (hidden, column)
    pooled = ReduceSum <keepdims = 0> (of_places, one)
"""
_STRIDES = """
    channels = Transpose <perm = [0, 2, 1]> (features)
    c1 = Conv <strides = [2]> (channels, K1, B)  r1 = Relu (c1)
    c2 = Conv <strides = [2]> (r1, K2, B)  r2 = Relu (c2)
    x = Transpose <perm = [0, 2, 1]> (r2)
"""
_PADDED_STRIDES = _STRIDES.replace("<strides = [2]>", "<strides = [2], pads = [1, 1]>")
_PLACES = """
    extent = Shape <start = 1, end = 2> (x)  longest = Squeeze (extent, zero)
    order = Range (scalar_zero, longest, scalar_one)
"""
#: From the number of tokens n [batch] to keep.
_FROM_COUNT = f"""
    {_PLACES}
    m1 = Sub (n, scalar_one)  h1 = Div (m1, scalar_two)  m2 = Sub (h1, scalar_one)  h2 = Div (m2, scalar_two)
    count = Unsqueeze (h2, one)  there = Less (order, count)  keep = Cast <to = 1> (there)
"""
_SCATTERED = """
    sums = CumSum (mask, scalar_one)  sum = Gather <axis = 1> (sums, scalar_last)
    m1 = Sub (sum, scalar_one)  h1 = Div (m1, scalar_two)  m2 = Sub (h1, scalar_one)  h2 = Div (m2, scalar_two)
    before = Sub (h2, scalar_one)
    batch = Shape <start = 0, end = 1> (mask)  samples = Squeeze (batch, zero)
    numbers = Range (scalar_zero, samples, scalar_one)
    first = Unsqueeze (numbers, one)  second = Unsqueeze (before, one)  at = Concat <axis = 1> (first, second)
    grid = Shape <start = 0, end = 2> (x)  nothing = ConstantOfShape (grid)
    ones = Expand (float_one, batch)  spots = ScatterND (nothing, at, ones)
    far_end = Constant <value_ints = [-9223372036854775807]> ()
    turned_round = Slice (spots, last, far_end, one, last)  behind = CumSum (turned_round, scalar_one)
    keep = Slice (behind, last, far_end, one, last)
"""


@dataclass(frozen=True)
class Kind:
    """A front end.

    Attributes:
        inputs: in onnx's text form.
        body: from the inputs to x and keep.
        subsampling: window, stride and pad of the whole.
        neighbours: who may share a run.
    """

    inputs: str
    body: str
    subsampling: tuple[int, int, int]
    neighbours: str = "any"


_FEATURES, _MASK = f"float[batch, time, {FEATURES}] features", "int64[batch, time] mask"
_SUMMED = _STRIDES + "n = ReduceSum <keepdims = 0> (mask, one)" + _FROM_COUNT
KINDS = {
    "strides, sum of the mask": Kind(f"{_FEATURES}, {_MASK}", _SUMMED, (7, 4, 0)),
    "strides, lengths": Kind(f"{_FEATURES}, int64[batch] n", _STRIDES + _FROM_COUNT, (7, 4, 0)),
    "strides, a one scattered to the last place": Kind(f"{_FEATURES}, {_MASK}", _STRIDES + _SCATTERED, (7, 4, 0)),
    "padded strides, every fourth of the mask": Kind(
        f"{_FEATURES}, {_MASK}",
        _PADDED_STRIDES
        + """end = Constant <value_ints = [9223372036854775807]> ()  four = Constant <value_ints = [4]> ()
             every = Slice (mask, zero, end, one, four)  keep = Cast <to = 1> (every)""",
        (1, 4, 0),
    ),
    "strides, no mask": Kind(
        _FEATURES,
        _STRIDES + _PLACES + "always = GreaterOrEqual (order, scalar_zero)  kept = Cast <to = 1> (always)"
        " grid = Shape <start = 0, end = 2> (x)  keep = Expand (kept, grid)",
        (7, 4, 0),
        "same_length",
    ),
    "a token put in front": Kind(
        f"{_FEATURES}, {_MASK}",
        """placed = MatMul (features, P)  samples = Shape <start = 0, end = 1> (mask)
           one_each = Concat <axis = 0> (samples, one, eight)  token = Expand (C, one_each)
           x = Concat <axis = 1> (token, placed)
           pads = Constant <value_ints = [0, 1, 0, 0]> ()  longer = Pad (mask, pads, scalar_one)
           keep = Cast <to = 1> (longer)""",
        (1, 1, 1),
    ),
    "windows of four pooled": Kind(
        f"{_FEATURES}, {_MASK}",
        """placed = MatMul (features, P)  float_mask = Cast <to = 1> (mask)  own = Unsqueeze (float_mask, last)
           masked = Mul (placed, own)  channels = Transpose <perm = [0, 2, 1]> (masked)
           means = AveragePool <kernel_shape = [4], strides = [4]> (channels)
           x = Transpose <perm = [0, 2, 1]> (means)
           flat = Unsqueeze (float_mask, one)  share = AveragePool <kernel_shape = [4], strides = [4]> (flat)
           any = Ceil (share)  keep = Squeeze (any, one)""",
        (4, 4, 0),
    ),
    "strides, and a vector a sample": Kind(
        f"{_FEATURES}, {_MASK}, float[batch, {USER}] user",
        _SUMMED.replace("x = Transpose", "plain = Transpose").replace(
            "n = ReduceSum",
            "u = MatMul (user, U)  of_user = Unsqueeze (u, one)  x = Add (plain, of_user)  n = ReduceSum",
        ),
        (7, 4, 0),
    ),
}


def encoder(kind: str) -> onnx.ModelProto:
    """The inputs of its kind -> hidden [batch, places, 8] and pooled [batch, 8]."""
    model = parse(f"encoder ({KINDS[kind].inputs}) => (float hidden, float pooled) {{ {KINDS[kind].body} {_ENCODER} }}")
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(("W", "W1", "W2"), (HIDDEN, HIDDEN))
    shapes |= {"K1": (HIDDEN, FEATURES, 3), "K2": (HIDDEN, HIDDEN, 3), "B": (HIDDEN,)}
    shapes |= {"P": (FEATURES, HIDDEN), "C": (1, 1, HIDDEN), "U": (USER, HIDDEN)}
    constants: dict[str, Any] = {name: rng.normal(size=shape) / 3 for name, shape in shapes.items()}
    constants |= {"float_one": np.ones(()), "far": np.full((), -1e4)}
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    whole = {"one": [1], "last": [-1], "zero": [0], "eight": [8]}
    whole |= {"scalar_one": 1, "scalar_zero": 0, "scalar_two": 2, "scalar_last": -1}
    constants |= {name: np.array(value, np.int64) for name, value in whole.items()}
    read = {name for node in model.graph.node for name in node.input}
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in read]
    model.graph.initializer.extend(weights)
    del model.graph.output[:]
    for name, shape in (("hidden", ("batch", "places", HIDDEN)), ("pooled", ("batch", HIDDEN))):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The declared extents of the inputs."""
    extents = {"features": [ROWS, COLUMNS, FEATURES], "mask": [ROWS, COLUMNS], "n": [ROWS], "user": [ROWS, USER]}
    return {value.name: extents[value.name] for value in model.graph.input}


def converted(kind: str, **options: Any) -> onnx.ModelProto:
    """The encoder, packed."""
    model = encoder(kind)
    pack_args = {"max_valid_num": MOST, "segment_max_size": COLUMNS}
    converter = Converter(input_shape=shapes_of(model), pack_args=pack_args, disable_progress_bar=True, **options)
    packed: onnx.ModelProto = converter.convert(copy_of(model))
    return packed


@cache
def executable(kind: str) -> Executable:
    """The packed encoder, compiled."""
    return Compiler.compile(converted(kind))


def samples(kind: str, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Arrays]:
    """For each length L what the original takes of one sample: features [L, 6], mask [L], n [], user [5]."""
    rng = np.random.default_rng(seed)
    names = {value.name for value in encoder(kind).graph.input}
    drawn = [
        {
            "features": rng.normal(size=(n, FEATURES)).astype(np.float32),
            "mask": np.ones(n, np.int64),
            "n": np.array(n),
            "user": rng.normal(size=USER).astype(np.float32),
        }
        for n in lengths
    ]
    return [{name: array for name, array in sample.items() if name in names} for sample in drawn]
