"""Models whose batch and sequence were fixed before they were packed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bert import BertConfig, build_bert
from passes.errors import PackingError
from passes.manager import PassManager
from passes.packing.insert_attention_mask import InsertAttentionMask
from passes.packing.opening.axis_atoms import AxisOrders, divide
from passes.packing.tokens.axes import BATCH, SEQ
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.runtime.declared import DeclaredSession
from tests.numerics import Arrays, one_by_one, random_samples, run
from tests.passes.packing.packs import TOLERANCE, around, assert_each_is_right, metadata, pack, samples
from tests.passes.rewrites import copy_of

TINY: dict[str, Any] = {"vocab": 500, "hidden": 64, "layers": 2, "heads": 4, "intermediate": 96}
BEFORE = ("extract_constant_to_initializer", "constant_folding", "eliminate_identity")


def fixed(model: onnx.ModelProto, rows: int, columns: int) -> onnx.ModelProto:
    """The model converted for one shape, without packing: its shape arithmetic has become constants."""
    shapes = {value.name: [rows, columns] for value in model.graph.input}
    baked = Converter(input_shape=shapes).convert(copy_of(model))
    assert "Shape" not in {node.op_type for node in baked.graph.node}, "nothing was baked: the test would show nothing"
    return baked


def packed(model: onnx.ModelProto, most: int, longest: int, **options: Any) -> onnx.ModelProto:
    args = {"max_valid_num": most, "segment_max_size": longest}
    return Converter(pack_args=args, **options).convert(copy_of(model))


def both_forms(model: onnx.ModelProto, feeds: Arrays) -> list[Arrays]:
    """Results of a packed model as it is declared, and compiled, for which ``shape_agnostic`` decides the extents."""
    kinds = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in model.graph.input
    }
    typed = {name: feeds[name].astype(kinds[name]) for name in kinds}
    results = DeclaredSession(Compiler.compile(copy_of(model)), threads=1).run(typed)
    return [run(model, typed), dict(zip([value.name for value in model.graph.output], results, strict=True))]


def bert_samples(model: onnx.ModelProto, lengths: tuple[int, ...]) -> list[Arrays]:
    names = {value.name for value in model.graph.input}
    return [
        {key: value for key, value in sample.items() if key in names}
        for sample in random_samples(lengths, vocab=TINY["vocab"], position_ids=True)
    ]


def check(model: onnx.ModelProto, rows: int, columns: int, lengths: tuple[int, ...], most: int) -> None:
    """Fix, pack, run in both forms, compare with each sample alone in the original; the same share runs packed."""
    got = packed(fixed(model, rows, columns), most, columns)
    chosen = bert_samples(model, lengths)
    for results in both_forms(got, pack(chosen, rows, columns, most)):
        assert_each_is_right(results, model, chosen)
    shapes = {value.name: [rows, columns] for value in model.graph.input}
    dynamic = metadata(packed(model, most, columns, input_shape=shapes))
    assert metadata(got)["shape_agnostic"]
    assert [metadata(got)[key] for key in ("packed_flops", "total_flops")] == [
        dynamic[key] for key in ("packed_flops", "total_flops")
    ]


@pytest.mark.parametrize("head", ["qa", "sequence", "mean", "hidden"])
@pytest.mark.parametrize("dialect", ["old-torch", "new-torch"])
def test_a_converted_model_packs_as_the_original_does(dialect: str, head: str) -> None:
    check(build_bert(BertConfig(**TINY, dialect=dialect, head=head)), 4, 24, (17, 5, 9, 24, 1, 13), 7)


@pytest.mark.export
@pytest.mark.parametrize("exporter", ["torch-old", "torch-new"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "mpnet", "t5-encoder"])
def test_an_export_of_one_shape_packs_as_the_dynamic_export_does(
    family: str, exporter: str, exported: Callable[..., Path], tmp_path: Path
) -> None:
    original = onnx.load(exported(family, "hidden", exporter))
    from tests.exports import FAMILIES  # the same weights: the seed is the family's
    from tests.torch_export import write

    write(FAMILIES[family], "hidden", exporter, "eager", tmp_path / "one_shape.onnx", shape=(4, 24))
    got = packed(onnx.load(tmp_path / "one_shape.onnx"), 7, 24)
    assert metadata(got)["shape_agnostic"]
    chosen = bert_samples(original, (17, 5, 9, 24, 1, 13))
    for results in both_forms(got, pack(chosen, 4, 24, 7)):
        assert_each_is_right(results, original, chosen)


@pytest.mark.parametrize("axis", [0, 1], ids=["batch", "sequence"])
@pytest.mark.parametrize("dialect", ["old-torch", "new-torch"])
def test_a_model_with_one_fixed_axis_packs(dialect: str, axis: int) -> None:
    model = build_bert(BertConfig(**TINY, dialect=dialect))
    half = Converter(batch_size=4, batch_axis=0) if axis == 0 else Converter(batch_size=24, batch_axis=1)
    shapes = {value.name: [4, 24] for value in model.graph.input}
    got = packed(half.convert(copy_of(model)), 7, 24, input_shape=shapes)
    chosen = bert_samples(model, (17, 5, 9, 24, 1, 13))
    assert metadata(got)["shape_agnostic"]
    for results in both_forms(got, pack(chosen, 4, 24, 7)):
        assert_each_is_right(results, model, chosen)


@pytest.mark.parametrize("dialect", ["old-torch", "new-torch"])
def test_a_model_with_an_input_of_positions_packs(dialect: str) -> None:
    check(build_bert(BertConfig(**TINY, dialect=dialect, position_ids=True)), 4, 24, (17, 5, 9, 24, 1, 13), 7)


@pytest.mark.parametrize(
    ("sizes", "rows", "columns"),
    [
        ({"hidden": 144, "heads": 12}, 12, 24),
        ({"hidden": 144, "heads": 12}, 12, 12),
        ({}, 3, 64),
        ({}, 24, 24),
        ({}, 1, 48),
    ],
    ids=["batch-is-heads", "batch-is-heads-is-length", "length-is-hidden", "batch-is-length", "batch-of-one"],
)
def test_extents_that_are_equal_by_chance_are_told_apart(sizes: dict[str, int], rows: int, columns: int) -> None:
    model = build_bert(BertConfig(**{**TINY, **sizes}, dialect="new-torch"))
    check(model, rows, columns, (7, 5, columns // 2, 1), max(rows, 6))


def test_samples_longer_than_the_fixed_tables_are_refused() -> None:
    model = fixed(build_bert(BertConfig(**TINY)), 4, 24)
    with pytest.raises(PackingError, match="fixed to sequences of 24 tokens; segment_max_size=30 is longer"):
        packed(model, 8, 30)


_POSITIONS = "y = Add (x, NINE)"
_SCORES = "turned = Transpose <perm = [0, 2, 1]> (x)  scores = MatMul (x, turned)  row = Unsqueeze (keep, one)"
_MASKED = "none = Sub (row, unit)  hidden = Mul (none, large)  masked_scores = Add (scores, hidden)"
_CAUSAL = f"{_SCORES} {_MASKED} told = Add (masked_scores, causal)  p = Softmax <axis = -1> (told)  y = MatMul (p, x)"

_SUMMED_BIAS = (
    f"{_SCORES} none = Sub (row, unit)  hidden = Mul (none, large)  bias = Add (causal, hidden)  "
    "told = Add (scores, bias)  p = Softmax <axis = -1> (told)  y = MatMul (p, x)"
)


def small(body: str, **constants: Any) -> onnx.ModelProto:
    """The graph of ``packs`` around ``body``, declared [3, 9]."""
    model = around(body)
    for name, value in {"unit": np.float32(1), "large": np.float32(1e9), **constants}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value, value.type.tensor_type.shape.dim[1].dim_value = 3, 9
    return model


def pack_small(model: onnx.ModelProto, most: int = 6, longest: int = 9) -> onnx.ModelProto:
    return packed(model, most, longest)


def padded_alone(model: onnx.ModelProto, sample: Arrays) -> Arrays:
    """What a fixed model gives for one sample: padded, in the first row."""
    feeds = {name: np.zeros((3, 9), np.int64) for name in sample}
    for name, values in sample.items():
        feeds[name][0, : len(values)] = values
    first_rows = {name: array[0] for name, array in run(model, feeds).items()}
    return {name: array[: len(sample["ids"])] if array.ndim > 1 else array for name, array in first_rows.items()}


def check_small(model: onnx.ModelProto, got: onnx.ModelProto, most: int, lengths: tuple[int, ...]) -> None:
    chosen = samples(lengths)
    for results in both_forms(got, pack(chosen, 3, 9, most)):
        for row, sample in enumerate(chosen):
            for name, want in padded_alone(model, sample).items():
                own = results[name][row][tuple(map(slice, want.shape))]
                np.testing.assert_allclose(own, want, atol=TOLERANCE, rtol=TOLERANCE, err_msg=f"{name}, sample {row}")


CAUSAL = np.triu(np.full((1, 9, 9), -1e9, np.float32), 1)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        (_POSITIONS, {}),
        (_CAUSAL, {"causal": CAUSAL}),
        (_SUMMED_BIAS, {"causal": CAUSAL}),
        ("y = Add (x, table)", {"table": np.tile(np.arange(72, dtype=np.float32).reshape(1, 9, 8), (3, 1, 1))}),
        (("t = Constant <value_ints = [27, 8]> ()  f = Reshape (x, t)  g = MatMul (f, W1)  "
         "u = Constant <value_ints = [3, 9, 8]> ()  y = Reshape (g, u)"), {}),
        ("e = Constant <value_ints = [3, 9, 8]> ()  s = Expand (column, e)  y = Mul (x, s)", {}),
        ("e = Constant <value_ints = [1, 1, 8]> ()  s = Tile (column, e)  y = Mul (x, s)", {}),
        ("z = Slice (x, zero, nine, one)  y = Add (z, V)", {"nine": np.array([9])}),
    ],
    ids=["positions", "causal-mask", "bias-and-mask-summed-first", "same-row-for-each-sample",
         "flat-and-back", "expand", "tile", "whole-slice"],
)  # fmt: skip
def test_what_a_fixed_shape_left_in_the_graph_is_made_general(body: str, constants: dict[str, Any]) -> None:
    model = small(body, **constants)
    got = pack_small(model)
    assert metadata(got)["shape_agnostic"]
    check_small(model, got, 6, (5, 9, 1, 7, 2))


@pytest.mark.parametrize(
    ("body", "constants", "reason"),
    [
        ("y = Add (x, table)", {"table": np.arange(216, dtype=np.float32).reshape(3, 9, 8)}, "differs from row to row"),
        ("y = Div (x, length)", {"length": np.float32(9)}, "may be the sequence length"),
        (("t = Constant <value_ints = [3, 3, 24]> ()  r = Reshape (x, t)  "
         "u = Constant <value_ints = [3, 9, 8]> ()  y = Reshape (r, u)"), {}, "divides the batch or the sequence"),
        ("z = Slice (x, zero, five, one)  y = Add (z, V)", {"five": np.array([5])}, "cuts seq at 0:5"),
    ],
    ids=["row-by-row", "length-as-divisor", "tokens-in-groups", "first-five"],
)  # fmt: skip
def test_what_cannot_be_shown_keeps_the_fixed_shape(body: str, constants: dict[str, Any], reason: str) -> None:
    with pytest.raises(PackingError, match=reason):
        pack_small(small(body, **constants))


def test_a_model_of_unclear_constants_packs_in_its_own_shape() -> None:
    model = small("y = Div (x, length)", length=np.float32(9))
    got = packed(model, 3, 9)
    assert not metadata(got)["shape_agnostic"]
    check_small(model, got, 3, (5, 9, 7))


def test_samples_share_rows_of_a_fixed_model() -> None:
    model = build_bert(BertConfig(**TINY, dialect="new-torch", head="hidden"))
    rows = PassManager([*BEFORE, InsertAttentionMask()]).run(fixed(model, 2, 24))
    lengths = (5, 9, 8, 3, 20)
    places = [(0, 0), (0, 5), (0, 14), (1, 0), (1, 3)]
    chosen = bert_samples(model, lengths)
    feeds = {value.name: np.zeros((2, 24), np.int32) for value in rows.graph.input}
    assert "position_ids" in feeds
    for number, (sample, (row, start)) in enumerate(zip(chosen, places, strict=True), 1):
        given_values = {**sample, "position_ids": np.arange(len(sample["input_ids"]))}
        given_values["attention_mask"] = np.full(len(sample["input_ids"]), number)
        for name, values in feeds.items():
            values[row, start : start + len(sample["input_ids"])] = given_values[name]
    got = run(rows, {v.name: feeds[v.name].astype(_kind(v)) for v in rows.graph.input})["last_hidden_state"]
    for want, length, (row, start) in zip(one_by_one(model, chosen), lengths, places, strict=True):
        np.testing.assert_allclose(got[row, start : start + length], want["last_hidden_state"], atol=TOLERANCE)


def _kind(value: onnx.ValueInfoProto) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


@given(st.lists(st.sampled_from([BATCH, SEQ, 2, 3, 4, 1]), min_size=1, max_size=5), st.data())
def test_a_reshape_keeps_the_order_of_its_atoms(source: list[Any], data: st.DataObject) -> None:
    sizes = {BATCH: 4, SEQ: 6}
    cuts = sorted(data.draw(st.sets(st.integers(1, len(source)), max_size=3)))
    bounds = [0, *cuts, len(source)]
    groups = [source[a:b] for a, b in itertools.pairwise(bounds) if a < b]
    target = [int(np.prod([sizes.get(atom, atom) for atom in group])) for group in groups]
    axes = divide([(atom,) for atom in source], target, sizes)
    assert axes is not None
    assert [int(np.prod([sizes.get(atom, atom) for atom in axis])) for axis in axes] == target
    assert [atom for axis in axes for atom in axis if atom in sizes] == [atom for atom in source if atom in sizes]


def test_a_product_made_in_both_orders_is_not_divided() -> None:
    orders = AxisOrders()
    merged = orders.merge((BATCH, 12))
    assert orders.atoms(merged) == (BATCH, 12)
    assert orders.merge((12, BATCH)) == merged
    assert orders.atoms(merged) == (merged,)
    assert divide([(merged,)], [16, 12], {merged: 192}) is None
