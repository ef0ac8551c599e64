"""Unpacking straight to heads: the numbers of the graph without it, bit for bit, and fewer copies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from models.bert import SIZES, BertConfig, build_bert
from models.dialects import DIALECTS
from passes import PassManager, PassResult
from poprt.compiler import Compiler
from poprt.compiler.head_gathers import GatherHeads
from poprt.compiler.key_flips import FlipKeys
from poprt.compiler.packing_spec import read_packing
from poprt.compiler.ragged import INDEX, PLACES, LowerPacking
from poprt.converter import Converter
from poprt.runtime.declared import DeclaredSession
from tests.numerics import Arrays, one_by_one, random_samples, run
from tests.passes.packing import packs
from tests.passes.rewrites import copy_of, ops

ROWS, COLUMNS, MOST = 3, 16, 8
LENGTHS = [[5, 9, 1], [16], [1], [1, 1, 1], [2] * 8, [3, 16, 1, 7]]
HEADS = "poprt_heads_"


@cache
def original(dialect: str, layers: int = 2) -> onnx.ModelProto:
    return build_bert(BertConfig(**{**SIZES["tiny"], "layers": layers}, head="mean", dialect=dialect))


def converted(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    pack_args = {"max_valid_num": MOST, "segment_max_size": COLUMNS}
    converter = Converter(input_shape=shapes, pack_args=pack_args, disable_progress_bar=True, **options)
    return converter.convert(copy_of(model))


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    return lower_packing(converted(model))


def lower_packing(model: onnx.ModelProto) -> onnx.ModelProto:
    packing = read_packing(model)
    assert packing is not None
    assert packing.ragged
    return LowerPacking(packing).run(model)


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    result = PassManager([FlipKeys(), GatherHeads()]).run(copy_of(model))
    onnx.checker.check_model(result)
    return result


def stream(lengths: list[int]) -> Arrays:
    samples = random_samples(lengths)
    feeds = {name: np.concatenate([sample[name] for sample in samples])[None].astype(np.int32) for name in samples[0]}
    return {**feeds, "unpack_info": np.array(lengths, np.int32)[:, None]}


def assert_same(model: onnx.ModelProto, lengths: list[int]) -> None:
    feeds = stream(lengths)
    got = run(rewritten(model), feeds)
    for name, want in run(model, feeds).items():
        np.testing.assert_array_equal(got[name], want)


def coarse(model: onnx.ModelProto, index: str) -> int:
    """How many Gathers still read ``index``."""
    return sum(node.op_type == "Gather" and node.input[1] == index for node in model.graph.node)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_numbers_stay_the_same_to_the_last_bit(dialect: str, lengths: list[int]) -> None:
    assert_same(lowered(original(dialect)), lengths)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_of_five_transposes_a_layer_the_flip_of_the_keys_stays(dialect: str) -> None:
    before = lowered(original(dialect))
    after = rewritten(before)
    assert ops(before).count("Transpose") == 5 * 2
    assert ops(after).count("Transpose") == 2 + 1  # and the index itself, once
    assert coarse(before, INDEX) - coarse(after, INDEX) == 3 * 2
    assert coarse(before, PLACES) - coarse(after, PLACES) == 2


def test_the_indices_are_made_once_for_all_layers() -> None:
    few, many = (rewritten(lowered(original("new-torch", layers))) for layers in (1, 4))
    names = [[node.output[0] for node in model.graph.node if node.output[0].startswith(HEADS)] for model in (few, many)]
    assert names[0]
    assert sorted(names[0]) == sorted(names[1])


def test_a_second_run_and_a_model_that_is_not_packed_change_nothing() -> None:
    once = rewritten(lowered(original("new-torch")))
    assert ops(rewritten(once)) == ops(once)
    manager = PassManager([FlipKeys(), GatherHeads()])
    for model in (once, original("new-torch")):
        manager.run(copy_of(model))
        assert not any(record.result.modified for record in manager.records)


def chain(model: onnx.ModelProto, index: str) -> list[str]:
    """The tensors that vanish at the first place of attention that reads ``index``."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "Gather" or node.input[1] != index:
            continue
        if index == PLACES:
            rows = makers[node.input[0]]
            if makers[rows.input[0]].op_type == "Transpose":
                return [rows.input[0], rows.output[0]]
            continue
        reader = next(other for other in graph.node if node.output[0] in other.input)
        if reader.op_type == "Reshape":
            return [node.output[0], reader.output[0]]
    raise AssertionError(f"no attention reads {index}")


@pytest.mark.parametrize("how", ["node", "output"])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("index", [INDEX, PLACES])
def test_a_tensor_with_another_reader_is_left_alone(index: str, number: int, how: str) -> None:
    model = lowered(original("old-torch"))
    name = chain(model, index)[number]
    read = name
    if how == "node":
        read = f"{name}_again"
        model.graph.node.append(helper.make_node("Identity", [name], [read]))
    shape = [None] * (4 if number == (index == INDEX) else 3)
    model.graph.output.append(helper.make_tensor_value_info(read, onnx.TensorProto.FLOAT, shape))
    after = rewritten(model)
    changed = {index: coarse(model, index) - coarse(after, index) for index in (INDEX, PLACES)}
    assert changed == {INDEX: 6 - (index == INDEX), PLACES: 2 - (index == PLACES)}
    assert_same(model, [3, 16, 1, 7])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_executables_of_other_precisions_keep_their_answers(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted(original("new-torch"), precision=precision)
    samples = random_samples([5, 16, 1, 9])
    feeds = {n: a.astype(np.int32) for n, a in packs.pack(samples, ROWS, COLUMNS, MOST).items()}
    executable = Compiler.compile(model)
    assert any(node.output[0].startswith(HEADS) for node in onnx.load_from_string(executable.graph).graph.node)
    got = DeclaredSession(executable, threads=1).run(feeds)[0]
    monkeypatch.setattr(GatherHeads, "apply", lambda self, graph: PassResult())
    monkeypatch.setattr(FlipKeys, "apply", lambda self, graph: PassResult())
    want = DeclaredSession(Compiler.compile(model), threads=1).run(feeds)[0]
    np.testing.assert_allclose(got, want, atol=1e-6)


# Attention without a softmax, for which padding with zeros is as good as none. H = 8.
ATTENTION = """
    a = MatMul (x, W)  b = MatMul (x, W1)
    q4 = Reshape (a, target)  q = Transpose <perm = {queries}> (q4)
    k4 = Reshape (b, target)  k = Transpose <perm = {keys}> (k4)
    scores = MatMul (q, k)  context = MatMul (scores, q)
    back = Transpose <perm = [0, 2, 1, 3]> (context)  merged = Reshape (back, flat)
    y = MatMul (merged, W)
"""
TARGETS = {
    "zeros": "target = Constant <value_ints = [0, 0, 2, 4]> ()",
    "heads left open": "target = Constant <value_ints = [0, 0, -1, 4]> ()",
    "size left open": "target = Constant <value_ints = [0, 0, 2, -1]> ()",
    "extents": "size = Shape <start = 0, end = 2> (ids) tail = Constant <value_ints = [2, 4]> () "
    "target = Concat <axis = 0> (size, tail)",
}
FLAT = "flat = Constant <value_ints = [0, 0, 8]> ()"


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_keys_that_are_flipped_in_the_same_transpose_are_flipped_afterwards(target: str) -> None:
    model = packs.around(target + FLAT + ATTENTION.format(queries="[0, 2, 1, 3]", keys="[0, 2, 3, 1]"))
    graph = lower_packing(packs.packed(model))
    after = rewritten(graph)
    assert coarse(graph, INDEX) - coarse(after, INDEX) == 2
    flips = [helper.get_attribute_value(n.attribute[0]) for n in after.graph.node if n.op_type == "Transpose"]
    assert sorted(flips) == [[0, 1, 3, 2], [0, 2, 1]]
    packs.assert_each_is_right(packs.run_ragged(model, packs.samples()), model, packs.samples())


FIVE_AXES = """
    parts = Constant <value_ints = [0, 0, 2, 2, 2]> ()  flat = Constant <value_ints = [0, 0, 8]> ()
    a = MatMul (x, W)  apart = Reshape (a, parts)  q = Transpose <perm = [0, 3, 2, 1, 4]> (apart)
    k = Transpose <perm = [0, 1, 2, 4, 3]> (q)  scores = MatMul (q, k)  context = MatMul (scores, q)
    back = Transpose <perm = [0, 3, 2, 1, 4]> (context)  merged = Reshape (back, flat)  y = MatMul (merged, W1)
"""


def test_queries_keys_and_values_in_one_tensor_are_unpacked_to_heads_too() -> None:
    model = packs.around(FIVE_AXES)
    graph = lower_packing(packs.packed(model))
    assert coarse(graph, INDEX) - coarse(rewritten(graph), INDEX) == 1
    packs.assert_each_is_right(packs.run_ragged(model, packs.samples()), model, packs.samples())


HEADS_OF_THEIR_OWN = """
    split = Constant <value_ints = [0, 0, 2, 8]> ()
    twice = Concat <axis = -1> (x, x)  apart = Reshape (twice, split)  each = MatMul (apart, W1)
    q = Transpose <perm = [0, 2, 1, 3]> (each)  k = Transpose <perm = [0, 1, 3, 2]> (q)
    scores = MatMul (q, k)  context = MatMul (scores, q)
    back = Transpose <perm = [0, 2, 1, 3]> (context)  sum = ReduceSum <keepdims = 0> (back, two)  y = MatMul (sum, W)
"""


def test_heads_that_were_split_before_the_unpack_are_moved_by_it() -> None:
    model = packs.around(HEADS_OF_THEIR_OWN)
    graph = lower_packing(packs.packed(model))
    after = rewritten(graph)
    assert coarse(graph, INDEX) - coarse(after, INDEX) == 1
    packs.assert_each_is_right(packs.run_ragged(model, packs.samples()), model, packs.samples())


@pytest.mark.export
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("exporter", ["torch-old", "torch-new"])
def test_exports_keep_one_flip_a_layer_and_their_numbers(
    exporter: str, attention: str, exported: Callable[..., Path]
) -> None:
    model = onnx.load(str(exported("bert", "mean", exporter, attention)))
    before = lowered(model)
    assert ops(before).count("Transpose") >= 4 * 2
    assert ops(rewritten(before)).count("Transpose") == 2 + 1  # the keys' flips and the index
    assert_same(before, [3, 16, 1, 7])
    got = run(rewritten(before), stream([3, 16, 1, 7]))
    for row, want in enumerate(one_by_one(model, random_samples([3, 16, 1, 7]))):
        for name, values in want.items():
            np.testing.assert_allclose(got[name][row], values, atol=1e-5)
