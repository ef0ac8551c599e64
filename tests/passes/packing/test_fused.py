"""Packing models that hold fused operators, in both layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from passes.errors import PackingError
from passes.graph_io import import_graph
from tests.numerics import random_samples
from tests.passes.packing.packs import (
    COLUMNS,
    HIDDEN,
    ROWS,
    around,
    assert_each_is_right,
    metadata,
    packed,
    run_declared,
    run_ragged,
    samples,
    with_constants,
)
from tests.passes.packing.shared_rows import assert_rows_are_right, row_lengths, shares_rows
from tests.versions import CRASHES_WITHOUT_BIAS

RNG = np.random.default_rng(1)
WEIGHTS: dict[str, Any] = {
    "QKV": RNG.normal(size=(HIDDEN, 3 * HIDDEN)).astype(np.float32),
    "QKV_bias": RNG.normal(size=3 * HIDDEN).astype(np.float32),
    "WQ": RNG.normal(size=(HIDDEN, HIDDEN)).astype(np.float32),
    "WK": RNG.normal(size=(HIDDEN, 4)).astype(np.float32),
    "kinds": RNG.normal(size=(2, HIDDEN)).astype(np.float32),
    "places": RNG.normal(size=(32, HIDDEN)).astype(np.float32),
    "to_heads": np.array([0, 0, 2, 4], np.int64),
    "to_hidden": np.array([0, 0, HIDDEN], np.int64),
    "middle": np.array([1, 2], np.int64),
    "ends": np.array([1, 3], np.int64),
    "none": np.array(0, np.int64),
    "no": np.array(0, np.float32),
    "minus": np.array(-10000, np.float32),
    "slope": np.array(-0.25, np.float32),
}


_INT_MASK = "mask32 = Cast <to = 6> (mask)"
_COUNTS = f"{_INT_MASK} counts = ReduceSum <keepdims = 0> (mask32, one)"
#: bool [batch, 1, seq, seq]: onnxruntime wants the mask of the standard operator in full.
_KEPT = """
    keys = Unsqueeze (mask, middle) key_kept = Cast <to = 9> (keys) queries = Unsqueeze (mask, ends)
    query_kept = Cast <to = 9> (queries) other = Not (query_kept) any = Or (query_kept, other)
    kept = And (key_kept, any)
"""
_ADDED = f"{_KEPT} added = Where (kept, no, minus)"
_QKV = "q = MatMul (x, WQ) k = MatMul (x, W1) v = MatMul (x, W)"
_HEADS = f"""{_QKV}
    q4 = Reshape (q, to_heads) k4 = Reshape (k, to_heads) v4 = Reshape (v, to_heads)
    qt = Transpose <perm = [0, 2, 1, 3]> (q4) kt = Transpose <perm = [0, 2, 1, 3]> (k4)
    vt = Transpose <perm = [0, 2, 1, 3]> (v4)"""
_JOIN = "back = Transpose <perm = [0, 2, 1, 3]> (heads) flat = Reshape (back, to_hidden) y = MatMul (flat, WQ)"
#: [1, 1, seq, seq]: how far two places are apart, times a slope.
_DISTANCE = """
    shape = Shape (ids) length = Gather (shape, scalar_one) steps = Range (none, length, scalar_one)
    across = Unsqueeze (steps, zero) down = Unsqueeze (steps, last) apart = Sub (across, down)
    far = Abs (apart) real = Cast <to = 1> (far) sloped = Mul (real, slope) outer = Constant <value_ints = [0, 1]> ()
    distance = Unsqueeze (sloped, outer)
"""
_MHA = "com.microsoft.MultiHeadAttention"
_CAUSAL = "h = com.microsoft.Attention <num_heads = 2, unidirectional = 1, scale = 0.3>"
_THIN = f"{_ADDED} q = MatMul (x, WQ) k = MatMul (x, WK) v = MatMul (x, W4)"
_SHARED = "h = Attention <q_num_heads = 4, kv_num_heads = 2>"

#: (opset, body): fused attention in each of its forms.
CASES: dict[str, tuple[int, str]] = {
    "projecting, lengths": (
        17, f"{_COUNTS} h = com.microsoft.Attention <num_heads = 2> (x, QKV, QKV_bias, counts) y = MatMul (h, WQ)"
    ),
    "projecting, key mask": (
        17, f"{_INT_MASK} h = com.microsoft.Attention <num_heads = 2> (x, QKV, QKV_bias, mask32) y = MatMul (h, WQ)"
    ),
    "projecting, causal": (
        17, f"{_INT_MASK} {_CAUSAL} (x, QKV, , mask32) y = MatMul (h, WQ)"
    ),
    "heads, lengths and a bias": (
        17, f"{_QKV} {_COUNTS} h = {_MHA} <num_heads = 2> (q, k, v, QKV_bias, counts) y = MatMul (h, WQ)"
    ),
    "heads, key mask and distances": (
        17, f"{_QKV} {_INT_MASK} {_DISTANCE} h = {_MHA} <num_heads=2> (q, k, v, , mask32, distance) y = MatMul (h, WQ)"
    ),
    "standard, boolean mask": (23, f"{_HEADS} {_KEPT} heads = Attention (qt, kt, vt, kept) {_JOIN}"),
    "standard, added mask": (23, f"{_HEADS} {_ADDED} heads = Attention (qt, kt, vt, added) {_JOIN}"),
    "standard, causal, capped": (
        23, f"{_HEADS} {_ADDED} heads = Attention <is_causal = 1, softcap = 5.0> (qt, kt, vt, added) {_JOIN}"
    ),
    "standard, three axes, shared heads": (
        23, f"{_THIN} {_SHARED} (q, k, v, added) y = MatMul (h, WQ)"
    ),
    "standard, lengths": (
        24, f"{_HEADS} {_COUNTS} n = Cast <to = 7> (counts) heads = Attention (qt, kt, vt, , , , n) {_JOIN}"
    ),
    "standard, distances": (
        23, f"{_HEADS} {_ADDED} {_DISTANCE} both = Add (added, distance) heads = Attention (qt, kt, vt, both) {_JOIN}"
    ),
}  # fmt: skip
cases = pytest.mark.parametrize("case", CASES)


def built(case: str | tuple[int, str], *, per_sample: bool = False) -> onnx.ModelProto:
    """The case around a hidden state. ``within_rows`` has no sums over the sequence: its second output is y doubled."""
    opset, body = CASES[case] if isinstance(case, str) else case
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"the installed onnx has no opset {opset}")
    if CRASHES_WITHOUT_BIAS and "(x, QKV, ," in body:
        pytest.skip("the installed onnxruntime crashes on an attention without a bias")
    model = around(body, opset=opset, head="" if per_sample else "pooled = Add (y, y)")
    return with_constants(model, WEIGHTS)


def unpacked_products(model: onnx.ModelProto) -> list[str]:
    """MatMuls by a constant matrix that read what an Unpack gives."""
    graph = import_graph(model)
    after = {id(tensor) for node in graph.nodes if node.op == "Unpack" for tensor in node.outputs}
    return [node.name for node in graph.nodes if node.op == "MatMul" and id(node.inputs[0]) in after]


@cases
def test_samples_laid_end_to_end_give_what_each_gives_alone(case: str) -> None:
    model = built(case)
    packed_model = packed(model)
    assert_each_is_right(run_declared(packed_model, samples()), model, samples())
    assert not unpacked_products(packed_model)
    assert "Unpack" in {node.op_type for node in packed_model.graph.node}


@pytest.mark.parametrize("case", ["projecting, lengths", "heads, key mask and distances", "standard, boolean mask"])
def test_the_executable_over_real_tokens_alone_gives_the_same(case: str) -> None:
    model = built(case)
    assert_each_is_right(run_ragged(model, samples()), model, samples())


@cases
def test_samples_that_share_rows_give_what_each_gives_alone(case: str) -> None:
    assert_rows_are_right(built(case), samples(row_lengths()), "mask")


@pytest.mark.parametrize("case", ["projecting, lengths", "heads, lengths and a bias", "standard, boolean mask"])
def test_the_flops_of_a_fused_attention_are_those_of_its_scores_and_context(case: str) -> None:
    said = metadata(packed(built(case)))
    tokens = ROWS * COLUMNS
    projections = 5 * 2 * tokens * HIDDEN * HIDDEN  # x, query, key, value, y
    assert said["packed_flops"] == projections
    assert said["total_flops"] == projections + 2 * 2 * tokens * HIDDEN * COLUMNS


def test_every_projection_of_a_projecting_attention_runs_packed() -> None:
    packed_model = packed(built("projecting, lengths"))
    graph = import_graph(packed_model)
    fused = next(node for node in graph.nodes if node.op == "MatMul" and node.inputs[1].name == "QKV")
    assert fused.inputs[0].inputs[0].op == "MatMul"  # x, straight from the packed side


def test_an_embedding_and_its_layer_norms_pack_with_their_positions_per_sample() -> None:
    body = (
        "ids32 = Cast <to = 6> (ids) mask32 = Cast <to = 6> (mask) "
        "e, counts = com.microsoft.EmbedLayerNormalization (ids32, , T, places, , V, V1, mask32) "
        "h = com.microsoft.Attention <num_heads = 2> (e, QKV, QKV_bias, counts) "
        "a = MatMul (h, WQ) y = com.microsoft.SkipLayerNormalization (a, e, V, V1, V1)"
    )
    model = built((17, body))
    assert_each_is_right(run_declared(packed(model), samples()), model, samples())
    assert_rows_are_right(model, samples(row_lengths()), "mask")


def test_a_skip_that_holds_positions_is_read_by_place_in_shared_rows() -> None:
    body = f"""
        shape = Shape (ids) length = Gather (shape, scalar_one) steps = Range (none, length, scalar_one)
        table = Gather (places, steps) skip = Unsqueeze (table, zero)
        z = com.microsoft.SkipLayerNormalization (x, skip, V, V1)
        {_INT_MASK} h = com.microsoft.Attention <num_heads = 2> (z, QKV, QKV_bias, mask32) y = MatMul (h, WQ)
    """
    assert_rows_are_right(built((17, body)), samples(row_lengths()), "mask")


def test_padding_masks_that_only_repeat_the_mask_are_dropped_where_rows_are_shared() -> None:
    model = shares_rows(built("projecting, lengths"))
    attention = next(node for node in model.graph.node if node.op_type == "MultiHeadAttention")
    assert attention.input[4] == ""
    assert "ReduceSum" not in {node.op_type for node in model.graph.node}


def test_layers_that_share_a_mask_share_its_sum_with_the_attention_mask() -> None:
    body = f"{_HEADS} {_ADDED} a = Attention (qt, kt, vt, added) heads = Attention (a, kt, vt, added) {_JOIN}"
    model = shares_rows(built((23, body)))
    assert sum("_within_samples" in name for node in model.graph.node for name in node.output) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            f"{_QKV} {_COUNTS} o = Div (counts, counts) h = {_MHA} <num_heads = 2> (q, k, v, , o) y = MatMul (h, WQ)",
            "reduces over the places of a row",
        ),
        (
            f"{_QKV} {_INT_MASK} h = {_MHA} <num_heads = 2> (q, , , , mask32) y = MatMul (h, WQ)",
            "three tensors of the tokens of one row",
        ),
        (
            f"{_QKV} {_INT_MASK} h, key, value = {_MHA} <num_heads = 2> (q, k, v, , mask32) y = MatMul (h, WQ)",
            "more than its first output",
        ),
    ],
)
def test_what_cannot_be_shown_to_keep_samples_apart_is_refused_by_name(body: str, reason: str) -> None:
    with pytest.raises(PackingError, match=reason):
        shares_rows(built((17, body)))


@pytest.mark.parametrize("layout", [packed, shares_rows])
def test_past_keys_are_refused_by_name(layout: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    body = f"{_QKV} {_INT_MASK} y = {_MHA} <num_heads = 2> (q, k, v, , mask32, , P, P)"
    with pytest.raises(PackingError, match="MultiHeadAttention 'y' continues from an earlier run by its input 'P'"):
        layout(built((17, body)))


FUSED = [
    ("bert", "qa", "torch-old", "eager", False),
    ("bert", "hidden", "torch-old", "sdpa", True),
    ("distilbert", "hidden", "torch-old", "sdpa", False),
    ("roberta", "hidden", "torch-old", "eager", True),
    ("mpnet", "hidden", "torch-old", "eager", False),
]


@pytest.mark.export
@pytest.mark.parametrize(("family", "head", "exporter", "attention", "multi_head"), FUSED)
def test_exports_fused_by_onnxruntime_pack_in_both_layouts(
    exported: Callable[..., Path], family: str, head: str, exporter: str, attention: str, multi_head: bool
) -> None:
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    options = pytest.importorskip("onnxruntime.transformers.fusion_options").FusionOptions("bert")
    options.use_multi_head_attention = multi_head
    path = str(exported(family, head, exporter, attention))
    fused = optimizer.optimize_model(path, "bert", num_heads=4, hidden_size=64, optimization_options=options)
    original, model = onnx.load(path), fused.model
    assert {"SkipLayerNormalization"} <= {node.op_type for node in model.graph.node}
    batch = [
        {name: sample[name] for name in (i.name for i in model.graph.input)} for sample in random_samples((5, 9, 1, 7))
    ]
    packed_model = packed(model)
    assert_each_is_right(run_declared(packed_model, batch), original, batch)
    assert not unpacked_products(packed_model)
    shared = random_samples(row_lengths())
    shared = [{value.name: sample[value.name] for value in model.graph.input} for sample in shared]
    assert_rows_are_right(model, shared, "attention_mask")
