"""Small encoders with an input of pairs of places, by the shape of that input and by what the graph does with it."""

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

ROWS, COLUMNS, MOST, HIDDEN, HEADS, VOCAB, BINS, KINDS = 3, 32, 10, 8, 2, 64, 16, 3
PACK_ARGS = {"max_valid_num": MOST, "segment_max_size": COLUMNS}
LENGTHS = [5, 32, 1, 17, 9, 30, 2, 2, 12, 25, 7, 1, 31, 3]

_SCORES = """
    q = MatMul (h, W)  k = MatMul (h, W1)  v = MatMul (h, W2)
    q_heads = Reshape (q, by_head)  k_heads = Reshape (k, by_head)  v_heads = Reshape (v, by_head)
    queries = Transpose <perm = [0, 2, 1, 3]> (q_heads)
    keys = Transpose <perm = [0, 2, 3, 1]> (k_heads)
    values = Transpose <perm = [0, 2, 1, 3]> (v_heads)
    scores = MatMul (queries, keys)
    biased = Add (scores, bias)
"""
_MIXED = """
    shares = Softmax <axis = -1> (told)
    mixed = MatMul (shares, values)
    turned = Transpose <perm = [0, 2, 1, 3]> (mixed)
    joined = Reshape (turned, whole)
    z = MatMul (joined, W3)
"""
_MASKED = """
    keep = Cast <to = 1> (mask)  lack = Sub (float_one, keep)  rows = Unsqueeze (lack, middle)
    penalty = Mul (rows, far)  told = Add (biased, penalty)
"""
_POOL = """
    kept = Cast <to = 1> (mask)  column = Unsqueeze (kept, last)  of_tokens = Mul (hidden, column)
    pooled = ReduceSum <keepdims = 0> (of_tokens, one)
"""
_ADDED = "bias = Unsqueeze (pairs, one)"
_SQUARE = ("seq", "seq")


@dataclass(frozen=True)
class Case:
    """An encoder with the input ``pairs``.

    Attributes:
        extents: of what a sample gives, "seq" for its tokens.
        body: makes ``bias``, which is added to the scores, and whatever is special.
        masked: makes ``told`` of the scores, what the softmax reads.
        hidden: makes ``hidden``.
        neighbours: which samples may share a run.
        values: one more than the largest of whole numbers; 0 for floats.
    """

    extents: tuple[int | str, ...]
    body: str
    masked: str = _MASKED
    hidden: str = "hidden = Add (h, z)"
    neighbours: str = "any"
    values: int = 0

    @property
    def axes(self) -> tuple[int, ...]:
        """The sequence axes of the input."""
        return tuple(axis for axis, extent in enumerate(self.extents, 1) if extent == "seq")

    def shape(self, length: int) -> list[int]:
        """What a sample of ``length`` tokens gives."""
        return [length if extent == "seq" else int(extent) for extent in self.extents]


_LOOKED_UP = "far_apart = Gather (D, pairs)  bias = Transpose <perm = [0, 3, 1, 2]> (far_apart)"
_WEIGHED = "weighed = MatMul (pairs, E)  bias = Transpose <perm = [0, 3, 1, 2]> (weighed)"
_SUMMED = "kinds = Transpose <perm = [0, 2, 1, 3]> (pairs)  bias = ReduceSum (kinds, one)"
_ALLOWED = "all = Cast <to = 1> (pairs)  no = Sub (float_one, all)  low = Mul (no, far)  bias = Unsqueeze (low, one)"
CASES = {
    "a bias": Case(_SQUARE, _ADDED),
    "a bias a head": Case((HEADS, *_SQUARE), "bias = Identity (pairs)"),
    "distances": Case(_SQUARE, _LOOKED_UP, values=BINS),
    "relations": Case((*_SQUARE, KINDS), _WEIGHED),
    "kinds between": Case(("seq", KINDS, "seq"), _SUMMED),
    "a mask of pairs": Case(_SQUARE, _ALLOWED, masked="told = Identity (biased)", values=2),
    "places summed by pairs": Case(
        _SQUARE, f"{_ADDED}  beside = MatMul (pairs, h)", hidden="h1 = Add (h, beside)  hidden = Add (h1, z)"
    ),
    "a mean over keys": Case(
        _SQUARE,
        f"{_ADDED}  mean = ReduceMean <axes = [2]> (pairs)",
        hidden="h1 = Add (h, mean)  hidden = Add (h1, z)",
        neighbours="same_length",
    ),
}


def encoder(name: str) -> onnx.ModelProto:
    """ids and mask [batch, seq], and the case's pairs -> hidden [batch, seq, 8], pooled [batch, 8]."""
    case = CASES[name]
    kind = "int64" if case.values else "float"
    extents = ", ".join(map(str, ("batch", *case.extents)))
    inputs = f"int64[batch, seq] ids, int64[batch, seq] mask, {kind}[{extents}] pairs"
    body = f"h = Gather (T, ids) {case.body} {_SCORES} {case.masked} {_MIXED} {case.hidden}"
    model = parse(f"encoder ({inputs}) => (float hidden, float pooled) {{ {body} {_POOL} }}")
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(HIDDEN, HIDDEN)) / 4 for name in ("W", "W1", "W2", "W3")}
    weights |= {"T": rng.normal(size=(VOCAB, HIDDEN)), "D": rng.normal(size=(BINS, HEADS)) * 2}
    weights |= {"E": rng.normal(size=(KINDS, HEADS)), "float_one": np.ones(()), "far": np.full((), -1e4)}
    shapes = {"by_head": [0, 0, HEADS, HIDDEN // HEADS], "whole": [0, 0, HIDDEN]}
    shapes |= {"one": [1], "middle": [1, 2], "last": [-1]}
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    constants |= {name: np.array(value) for name, value in shapes.items()}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in constants if name in read)
    del model.graph.output[:]
    for name, shape in (("hidden", ("batch", "seq", HIDDEN)), ("pooled", ("batch", HIDDEN))):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def converted(name: str, **options: Any) -> onnx.ModelProto:
    """The encoder, packed across rows."""
    settings: dict[str, Any] = {"pack_args": PACK_ARGS, "disable_progress_bar": True, **options}
    shapes = {name: [ROWS, COLUMNS] for name in ("ids", "mask")}
    result: onnx.ModelProto = Converter(input_shape=shapes, **settings).convert(copy_of(encoder(name)))
    return result


@cache
def executable(name: str) -> Executable:
    """The packed encoder, compiled."""
    return Compiler.compile(converted(name))


def samples(name: str, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Arrays]:
    """For each length L: ids and mask [L], and pairs as the case has them."""
    rng, case = np.random.default_rng(seed), CASES[name]
    return [
        {
            "ids": rng.integers(1, VOCAB, n),
            "mask": np.ones(n, np.int64),
            "pairs": _pairs(case, n, rng),
        }
        for n in lengths
    ]


def _pairs(case: Case, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    shape = case.shape(length)
    if not case.values:
        return rng.normal(size=shape).astype(np.float32)
    drawn = rng.integers(0, case.values, shape)
    if case.values == 2:  # a mask: each place sees itself
        drawn |= np.eye(length, dtype=drawn.dtype)
    return drawn
