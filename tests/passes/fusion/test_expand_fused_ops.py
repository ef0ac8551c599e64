"""expand_fused_ops: what replaces each fused operator, with the operator's own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes.fusion.expand_fused_ops import ExpandFusedOps
from passes.graph_io import import_graph
from tests.numerics import run
from tests.passes.rewrites import copy_of, ops, parse, rewritten
from tests.versions import without_bias

BATCH, SEQ, HIDDEN, VOCAB = 2, 6, 8, 20
RNG = np.random.default_rng(0)
WEIGHTS: dict[str, Any] = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in {
        "words": (VOCAB, HIDDEN),
        "places": (16, HIDDEN),
        "kinds": (2, HIDDEN),
        "gamma": (HIDDEN,),
        "beta": (HIDDEN,),
        "qkv": (HIDDEN, 3 * HIDDEN),
        "qkv_bias": (3 * HIDDEN,),
        "narrow": (HIDDEN, 8 + 8 + 4),
        "narrow_bias": (8 + 8 + 4,),
        "wq": (HIDDEN, HIDDEN),
    }.items()
}
LENGTHS = np.array([4, 6], np.int32)
MASK = (np.arange(SEQ) < LENGTHS[:, None]).astype(np.int32)
EMBEDDING_FEEDS = {
    "ids": RNG.integers(0, VOCAB, (BATCH, SEQ)).astype(np.int32),
    "kind": RNG.integers(0, 2, (BATCH, SEQ)).astype(np.int32),
    "mask": MASK,
    "at": RNG.permuted(np.tile(np.arange(SEQ, dtype=np.int32), (BATCH, 1)), axis=1),
}
ATTENTION_FEEDS = {
    "x": RNG.normal(size=(BATCH, SEQ, HIDDEN)).astype(np.float32),
    "lengths": LENGTHS,
    "mask": MASK,
    "pairs": np.tril(np.ones((BATCH, SEQ, SEQ), np.int32)),
    "bias4": RNG.normal(size=(1, 2, SEQ, SEQ)).astype(np.float32),
}
ATTENTION_INPUTS = (
    "float[batch, seq, 8] x, int32[batch] lengths, int32[batch, seq] mask, "
    "int32[batch, seq, seq] pairs, float[1, 2, seq, seq] bias4"
)
DECLARED = {
    "y": "float[batch, seq, hidden] y",
    "counts": "int32[batch] counts",
    "summed": "float[batch, seq, hidden] summed",
    "kept": "float kept",
}


def model(inputs: str, body: str, outputs: str) -> onnx.ModelProto:
    declared = ", ".join(DECLARED[name.strip()] for name in outputs.split(",") if name.strip())
    parsed = parse(f"fused ({inputs}) => ({declared}) {{ {body} }}")
    read = {name for node in parsed.graph.node for name in node.input}
    parsed.graph.initializer.extend(numpy_helper.from_array(WEIGHTS[name], name) for name in WEIGHTS if name in read)
    return parsed


def embedding(inputs: str, attributes: str = "", outputs: str = "y, counts") -> onnx.ModelProto:
    ids = "int32[batch, seq] ids, int32[batch, seq] kind, int32[batch, seq] mask, int32[batch, seq] at"
    body = f"{outputs} = com.microsoft.EmbedLayerNormalization {attributes} ({inputs})"
    return model(ids, body, outputs)


def attention(body: str) -> onnx.ModelProto:
    return model(ATTENTION_INPUTS, body, "y")


def assert_same(before: onnx.ModelProto, feeds: dict[str, Any]) -> onnx.ModelProto:
    after = rewritten(ExpandFusedOps(), before, full_check=False)
    want, got = run(before, feeds), run(after, feeds)
    assert want.keys() == got.keys()
    for name, array in want.items():
        assert array.dtype == got[name].dtype
        np.testing.assert_allclose(got[name], array, atol=1e-5, rtol=1e-5, err_msg=name)
    return after


ALL = "ids, kind, words, places, kinds, gamma, beta"


@pytest.mark.parametrize(
    ("inputs", "attributes", "outputs"),
    [
        (ALL, "<epsilon = 1e-12>", "y, counts"),
        (ALL, "<epsilon = 0.5>", "y, counts"),
        ("ids, , words, places, , gamma, beta", "", "y, counts"),
        (f"{ALL}, mask", "", "y, counts"),
        (ALL, "", "y, counts"),
        (f"{ALL}, , at", "", "y, counts"),
        (f"{ALL}, mask, at", "", "y, counts, summed"),
    ],
)
def test_an_embedding_becomes_lookups_and_a_layer_norm_with_the_same_results(
    inputs: str, attributes: str, outputs: str
) -> None:
    after = assert_same(embedding(inputs, attributes, outputs), EMBEDDING_FEEDS)
    assert "EmbedLayerNormalization" not in ops(after)
    assert ops(after).count("Gather") == (2 if ", ," in inputs.split("words")[0] else 3)
    assert ops(after).count("LayerNormalization") == 1


def test_the_default_epsilon_is_the_fused_operators_own() -> None:
    after = rewritten(ExpandFusedOps(), embedding(ALL), full_check=False)
    node = next(node for node in after.graph.node if node.op_type == "LayerNormalization")
    assert {item.name: item.f for item in node.attribute}["epsilon"] == pytest.approx(1e-12)


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        ("x, qkv, qkv_bias", ""),
        pytest.param("x, qkv, ", "", marks=without_bias),
        ("x, qkv, qkv_bias, lengths", "mask_filter_value = -10000.0"),
        ("x, qkv, qkv_bias, mask", "mask_filter_value = -3.4028235e38"),
        ("x, qkv, qkv_bias, pairs", ""),
        ("x, qkv, qkv_bias, mask, , bias4", ""),
        ("x, qkv, qkv_bias, , , bias4", "scale = 0.3"),
        ("x, qkv, qkv_bias, mask", "unidirectional = 1"),
        ("x, narrow, narrow_bias, mask", "qkv_hidden_sizes = [8, 8, 4]"),
    ],
)
def test_an_attention_becomes_a_product_and_heads_with_the_same_results(inputs: str, attributes: str) -> None:
    listed = ", ".join(["num_heads = 2", *([attributes] if attributes else [])])
    before = attention(f"y = com.microsoft.Attention <{listed}> ({inputs})")
    after = assert_same(before, dict(ATTENTION_FEEDS))
    biased = ["Add"] if "bias," in inputs or inputs.endswith("qkv_bias") else []
    assert sorted(ops(after)) == sorted(["MatMul", *biased, "Split", "MultiHeadAttention"])


def test_the_bias_of_a_multi_head_attention_is_added_before_it() -> None:
    before = attention(
        "q = MatMul (x, wq)  y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, x, x, qkv_bias, mask, bias4)"
    )
    after = assert_same(before, dict(ATTENTION_FEEDS))
    assert ops(after) == ["MatMul", "Add", "Add", "Add", "MultiHeadAttention"]
    assert after.graph.node[-1].input[3] == ""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y, kept = com.microsoft.Attention <num_heads = 2> (x, qkv, qkv_bias)", "to a later run"),
        ("y = com.microsoft.Attention <num_heads = 2, do_rotary = 1> (x, qkv, qkv_bias)", "rotates"),
        ("y = com.microsoft.Attention <num_heads = 2> (x, qkv, qkv_bias, , bias4)", "an earlier run"),
        (
            "e = Concat <axis = 0> (lengths, lengths) y = com.microsoft.Attention <num_heads = 2> (x, qkv, , e)",
            "does not hold the lengths",
        ),
        (
            "b = Identity (qkv_bias) y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x, b)",
            "is computed",
        ),
    ],
)
def test_what_cannot_be_expanded_is_left_alone_with_a_reason(body: str, reason: str) -> None:
    before = attention(body)
    graph = import_graph(copy_of(before))
    result = ExpandFusedOps().apply(graph)
    assert not result.modified
    assert [reason in refusal.reason for refusal in result.refusals] == [True]
    assert [node.op for node in graph.nodes] == ops(before)


def test_below_opset_13_nothing_is_expanded_and_the_reason_says_so() -> None:
    before = attention("y = com.microsoft.Attention <num_heads = 2> (x, qkv, qkv_bias)")
    before.opset_import[0].version = 12
    result = ExpandFusedOps().apply(import_graph(before))
    assert not result.modified
    assert "needs opset 13" in result.refusals[0].reason


def test_a_position_table_that_is_computed_is_looked_up_as_well() -> None:
    before = embedding(ALL.replace("places", "cast"))
    before.graph.initializer.append(numpy_helper.from_array(WEIGHTS["places"].astype(np.float64), "wide"))
    before.graph.node.insert(0, onnx.helper.make_node("Cast", ["wide"], ["cast"], to=onnx.TensorProto.FLOAT))
    assert "Gather" in ops(assert_same(before, EMBEDDING_FEEDS))


def test_operators_of_other_domains_are_not_taken_for_fused_ones() -> None:
    body = "y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x)"
    if onnx.defs.onnx_opset_version() < 23:
        pytest.skip("the installed onnx has no opset 23")
    before = parse(f"plain (float[2, 4, 8] x) => (float[2, 4, 8] y) {{ {body} }}", opset=23)
    graph = import_graph(before)
    assert not ExpandFusedOps().apply(graph).modified
