"""A small encoder whose tokens are an id and an array of ids, packed in every layout; and with a row a sample too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from passes.packed_model import PackedModel
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from tests.numerics import Arrays
from tests.passes.rewrites import copy_of, parse

ROWS, COLUMNS, MOST, HIDDEN, VOCAB = 3, 32, 10, 8, 64
BOX, SPOTS = (2, 3), 16
LENGTHS = [5, 32, 1, 17, 9, 30, 2, 2, 12, 25, 7, 1, 31, 3]
#: Options of the converter by layout; within rows that are not unpacked, no output may have a row a sample.
LAYOUTS: dict[str, dict[str, Any]] = {
    "across_rows": {"pack_args": {"max_valid_num": MOST, "segment_max_size": COLUMNS}},
    "fixed_extents": {"pack_args": {"max_valid_num": MOST, "segment_max_size": COLUMNS}},
    "within_rows": {"used_passes": ["insert_attention_mask"]},
    "within_rows_unpacked": {
        "used_passes": ["insert_attention_mask"],
        "pack_args": {"max_valid_num": MOST, "segment_max_size": COLUMNS},
    },
}

_BODY = """
    told = Gather (T, ids)
    spots = Gather (B, boxes)
    placed = ReduceSum <keepdims = 0> (spots, box_axes)
    x = Add (told, placed)
    keep = Cast <to = 1> (mask)
    q = MatMul (x, W)  k = MatMul (x, W1)  v = MatMul (x, W2)
    turned = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul (q, turned)
    lack = Sub (float_one, keep)  row = Unsqueeze (lack, one)  penalty = Mul (row, far)
    masked_scores = Add (scores, penalty)
    shares = Softmax <axis = -1> (masked_scores)
    mixed = MatMul (shares, v)
    hidden = Add (x, mixed)
"""
_POOL = """
    column = Unsqueeze (keep, last)  of_tokens = Mul (hidden, column)
    pooled = ReduceSum <keepdims = 0> (of_tokens, one)
"""


def encoder(*, pooled: bool = True) -> onnx.ModelProto:
    """ids and mask [batch, seq], boxes int64 [batch, seq, 2, 3] -> hidden [batch, seq, 8] and pooled [batch, 8]."""
    outputs = "float hidden, float pooled" if pooled else "float hidden"
    inputs = "int64[batch, seq] ids, int64[batch, seq, 2, 3] boxes, int64[batch, seq] mask"
    model = parse(f"encoder ({inputs}) => ({outputs}) {{ {_BODY} {_POOL if pooled else ''} }}")
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {name: rng.normal(size=(HIDDEN, HIDDEN)) / 4 for name in ("W", "W1", "W2")}
    constants |= {"T": rng.normal(size=(VOCAB, HIDDEN)), "B": rng.normal(size=(SPOTS, HIDDEN)) / 2}
    constants |= {"float_one": np.ones(()), "far": np.full((), -1e4)}
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    constants |= {"one": np.array([1]), "last": np.array([-1]), "box_axes": np.array([2, 3])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    del model.graph.output[:]
    shapes = {"hidden": ("batch", "seq", HIDDEN), "pooled": ("batch", HIDDEN)}
    for name in ("hidden", "pooled") if pooled else ("hidden",):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]))
    return model


def shapes() -> dict[str, list[int]]:
    """The declared extents of the encoder's inputs."""
    return {"ids": [ROWS, COLUMNS], "boxes": [ROWS, COLUMNS, *BOX], "mask": [ROWS, COLUMNS]}


def converted(layout: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model packed in a layout."""
    options = {**LAYOUTS[layout], "disable_progress_bar": True}
    result: onnx.ModelProto = Converter(input_shape=shapes(), **options).convert(copy_of(model))
    if layout == "fixed_extents":
        replace(PackedModel.read(result), shape_agnostic=False).write(result)
    return result


@cache
def executable(layout: str) -> Executable:
    """The packed encoder; rows that are not unpacked have no pooled output."""
    return Compiler.compile(converted(layout, encoder(pooled=layout != "within_rows")))


def samples(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Arrays]:
    """For each length L: ids and mask [L], boxes [L, 2, 3]."""
    rng = np.random.default_rng(seed)
    return [
        {
            "ids": rng.integers(1, VOCAB, n),
            "boxes": rng.integers(1, SPOTS, (n, *BOX)),
            "mask": np.ones(n, np.int64),
        }
        for n in lengths
    ]


def with_whole_inputs(model: onnx.ModelProto, samples: int | str) -> onnx.ModelProto:
    """The encoder, packed or not, with pooled = (pooled + user) * scale, for user [samples, 8] and scale []."""
    model = copy_of(model)
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "pooled":
                node.output[index] = "pooled_alone"
    model.graph.node.extend(
        [
            helper.make_node("Add", ["pooled_alone", "user"], ["of_user"], name="of_user"),
            helper.make_node("Mul", ["of_user", "scale"], ["pooled"], name="scaled"),
        ]
    )
    model.graph.input.extend(
        [
            helper.make_tensor_value_info("user", TensorProto.FLOAT, [samples, HIDDEN]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        ]
    )
    packing = PackedModel.read(model)
    if packing is not None:
        replace(packing, sample_inputs=("user",), run_inputs=("scale",)).write(model)
    return model


@cache
def whole_executable(layout: str) -> Executable:
    """The packed encoder of :func:`with_whole_inputs`."""
    return Compiler.compile(with_whole_inputs(converted(layout, encoder()), MOST))


def whole_samples(lengths: Sequence[int] = LENGTHS, scales: Sequence[float] = (1.0, 2.0)) -> list[Arrays]:
    """:func:`samples` with a user [8] each and scales [] in turn."""
    rng = np.random.default_rng(1)
    return [
        {
            **sample,
            "user": rng.normal(size=HIDDEN).astype(np.float32),
            "scale": np.array(scales[number % len(scales)], np.float32),
        }
        for number, sample in enumerate(samples(lengths))
    ]
