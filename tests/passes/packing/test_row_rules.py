"""The rules of samples that share rows, one use an entry of the table: what they make of it, or why they refuse it.

What is accepted must give each sample what it gets alone; what is refused must be refused by the pass as well.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

from passes.errors import PackingError
from passes.graph_io import import_graph
from passes.manager import PassManager
from passes.packing.insert_attention_mask import InsertAttentionMask
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.positional import Positional
from passes.packing.tokens.sides import place
from passes.packing.within_rows.row_analysis import RowAnalysis
from passes.packing.within_rows.row_rules import ROW_RULES
from passes.shapes.symbolic import infer_symbolic_shapes
from tests.numerics import Arrays, one_by_one, run
from tests.passes.packing.packs import around, samples
from tests.passes.rewrites import copy_of

ROWS, COLUMNS = 3, 12
#: Lengths of the samples of each row; some places stay empty.
LAYOUT = ((5, 7), (9, 2), (1, 3, 4))
BEFORE = ("extract_constant_to_initializer", "constant_folding", "eliminate_identity")
TOLERANCE = 1e-5

#: Lines that several entries begin with; ``$name`` stands for them.
SHARED = {
    "extents": "s = Shape <start = 1, end = 2> (ids)",
    "counted": "$extents  n = Squeeze (s, zero)  r = Range (scalar_zero, n, scalar_one)",
    "pairs": "$turned  sc = MatMul (x, xt)",
    "turned": "xt = Transpose <perm = [0, 2, 1]> (x)",
    "weights": "$pairs  w = Softmax <axis = -1> (sc)",
    "heads": "$weights  w4 = Unsqueeze (w, one)",
    "sum": "y = MatMul (t, x)",
    "levels": "at = Constant <value_int = -128> ()  point = Cast <to = 3> (at)"
    "  step = Constant <value_float = 0.004> ()",
    "relative": "$counted  left = Unsqueeze (r, one)  right = Unsqueeze (r, zero)",
    # [batch, 1, seq, seq, 1] each: the row and the place of the key, for each pair
    "spread": """
        $counted  $pairs  b = Shape <start = 0, end = 1> (ids)  rows = Squeeze (b, zero)
        row = Range (scalar_zero, rows, scalar_one)  all = Concat <axis = 0> (b, one, s, s)
        not_first = Constant <value_ints = [1, 2, 3, 4]> ()  not_key = Constant <value_ints = [0, 1, 2, 4]> ()
        every = Constant <value_ints = [1]> ()  all5 = Concat <axis = 0> (all, every)
        row5 = Unsqueeze (row, not_first)  of_row = Expand (row5, all5)
        key5 = Unsqueeze (r, not_key)  of_key = Expand (key5, all5)  kept = Cast <to = 9> (mask)
    """,
    "masked": "f = Cast <to = 1> (t)  g = Squeeze (f, one)  u = Add (sc, g)  w = Softmax (u)  y = MatMul (w, x)",
}

#: [what] then "token", "pair" or "block", or what the reason says; then lines that make ``t`` and, from it, ``y``.
TABLE = """
[product of tokens and a matrix] token
    t = MatMul (x, W1)  y = Relu (t)
[scores] pair
    $turned  t = MatMul (x, xt)  w = Softmax (t)  y = MatMul (w, x)
[weights] block
    $pairs  t = Softmax <axis = -1> (sc)  $sum
[weights over the queries] block
    $pairs  t = Softmax <axis = 1> (sc)  $sum
[softmax over hidden] token
    t = Softmax <axis = -1> (x)  y = MatMul (t, W1)
[softmax over the places of a row] normalises over the places
    t = Softmax <axis = 1> (x)  y = MatMul (t, W1)
[log softmax of scores] normalises over the places
    $pairs  t = LogSoftmax <axis = -1> (sc)  e = Exp (t)  y = MatMul (e, x)
[log softmax over hidden] token
    t = LogSoftmax <axis = -1> (x)  y = MatMul (t, W1)
[hardmax over hidden] token
    t = Hardmax <axis = -1> (x)  y = MatMul (t, W1)
[scores times tokens without a softmax] no attention mask has kept apart
    $pairs  t = MatMul (sc, x)  y = Relu (t)
[weights times weights] no attention mask has kept apart
    $weights  t = MatMul (w, w)  y = MatMul (t, x)
[weights times tokens] token
    $weights  t = MatMul (w, x)  y = Relu (t)
[tokens summed over the row] no attention mask has kept apart
    $turned  t = MatMul (xt, x)  y = MatMul (x, t)
[gemm of all places] all places of all rows
    f = Cast <to = 1> (mask)  t = Gemm <transB = 1> (f, f)  m = ReduceSum (t)  y = Add (x, m)
[reshape to rows of all places] no plain sequence axis
    rows = Constant <value_ints = [-1, 8]> ()  t = Reshape (x, rows)  g = Gemm (t, W1, V)  sh = Shape (x)
    y = Reshape (g, sh)
[scaled weights] block
    $weights  half = Constant <value_float = 0.5> ()  t = Mul (w, half)  $sum
[weights times scores] block
    $weights  t = Mul (w, sc)  $sum
[weights by a sum of each query] block
    $weights  d = ReduceSum (w, last)  t = Div (w, d)  $sum
[weights by weights] pair
    $weights  e = Exp (w)  t = Div (w, w)  u = Add (t, e)  v = Softmax (u)  y = MatMul (v, x)
[weights by weights, summed] no attention mask has kept apart
    $weights  e = Div (w, w)  t = MatMul (e, x)  y = Relu (t)
[weights by scores] pair
    $weights  t = Div (w, sc)  v = Softmax (t)  y = MatMul (v, x)
[weights that are clipped below at zero] block
    $weights  t = Relu (w)  $sum
[roots of weights] block
    $weights  t = Sqrt (w)  $sum
[one minus weights] pair
    $weights  on = Constant <value_float = 1.0> ()  t = Sub (on, w)  v = Softmax (t)  y = MatMul (v, x)
[exponentials of weights] pair
    $weights  t = Exp (w)  v = Softmax (t)  y = MatMul (v, x)
[weights or zero] block
    $weights  no = Constant <value_float = 0.0> ()  c = Greater (sc, no)  t = Where (c, w, no)  $sum
[weights or one] pair
    $weights  on = Constant <value_float = 1.0> ()  c = Greater (sc, on)  t = Where (c, w, on)  v = Softmax (t)
    y = MatMul (v, x)
[thresholded scores] pair
    $pairs  t = ThresholdedRelu (sc)  w = Softmax (t)  y = MatMul (w, x)
[cast of weights] block
    $weights  t = Cast <to = 1> (w)  $sum
[quantised tokens] token
    $levels  q = QuantizeLinear (x, step, point)  t = DequantizeLinear (q, step, point)  y = MatMul (t, W1)
[levels of weights] pair
    $weights  $levels  t = QuantizeLinear (w, step, point)  d = DequantizeLinear (t, step, point)  y = MatMul (d, x)
[levels of weights by the point zero] block
    $weights  $levels  t = QuantizeLinear (w, step)  d = DequantizeLinear (t, step)  y = MatMul (d, x)
[quantised weights] block
    $weights  $levels  q = QuantizeLinear (w, step, point)  t = DequantizeLinear (q, step, point)  $sum
[weights quantised and read by another point] pair
    $weights  $levels  q = QuantizeLinear (w, step, point)  other = Constant <value_int = 9> ()
    p = Cast <to = 3> (other)  t = DequantizeLinear (q, step, p)  v = Softmax (t)  y = MatMul (v, x)
[clipped tokens] token
    no = Constant <value_float = 0.0> ()  t = Clip (x, no)  y = MatMul (t, W1)
[dropout outside training] token
    t = Dropout (x)  y = MatMul (t, W1)
[gelu of onnxruntime] token
    t = com.microsoft.Gelu (x)  y = MatMul (t, W1)
[gelu with a bias] token
    t = com.microsoft.BiasGelu (x, V)  y = MatMul (t, W1)
[positions] token
    $extents  p = Slice (P, zero, s, one)  t = Add (x, p)  y = MatMul (t, W1)
[length of the row] depends on the length of the row
    $extents  f = Cast <to = 1> (s)  t = Div (x, f)  y = MatMul (t, W1)
[relative distances] pair
    $pairs  $relative  far = Sub (left, right)  f = Cast <to = 1> (far)  t = Add (sc, f)  w = Softmax (t)
    y = MatMul (w, x)
[products of positions] more than their distance
    $pairs  $relative  both = Mul (left, right)  f = Cast <to = 1> (both)  t = Add (sc, f)  w = Softmax (t)
    y = MatMul (w, x)
[layer norm over hidden] token
    t = LayerNormalization <axis = -1> (x, V, V1)  y = MatMul (t, W1)
[layer norm over a row] normalises over the places
    t = LayerNormalization <axis = 1> (x, V)  y = MatMul (t, W1)
[skip layer norm] token
    e = Relu (x)  t = com.microsoft.SkipLayerNormalization (x, e, V, V1)  y = MatMul (t, W1)
[sum over hidden] token
    t = ReduceSum (x, last)  y = Mul (t, x)
[sum over a row] reduces over the places
    t = ReduceSum (x, one)  y = Mul (t, x)
[maximum over a row] reduces over the places
    t = ReduceMax <axes = [1]> (x)  y = Mul (t, x)
[sum of each query's weights] token
    $weights  m = Mul (w, sc)  t = ReduceSum (m, last)  y = Mul (t, x)
[sum of each key's weights] token
    $weights  t = ReduceSum <keepdims = 0> (w, one)  u = Unsqueeze (t, last)  y = Mul (u, x)
[maximum of each query's weights] reduces over the places
    $weights  t = ReduceMax <axes = [2]> (w)  y = Mul (t, x)
[index of the largest of hidden] token
    t = ArgMax <axis = 2> (x)  f = Cast <to = 1> (t)  y = Mul (f, x)
[index of the largest place] works along the places
    t = ArgMax <axis = 1> (x)  f = Cast <to = 1> (t)  y = Mul (f, x)
[split of hidden] token
    t, u = Split <axis = 2> (x)  y = Mul (t, u)
[largest of hidden] token
    k = Constant <value_ints = [3]> ()  t, i = TopK <axis = 2> (x, k)  y = Exp (t)
[largest places] works along the places
    k = Constant <value_ints = [1]> ()  t, i = TopK <axis = 1> (x, k)  y = Mul (x, t)
[joined hidden] token
    e = Relu (x)  t = Concat <axis = -1> (x, e)  y = Exp (t)
[joined with positions] does not carry the same places
    $extents  p = Slice (P, zero, s, one)  sh = Shape (x)  o = Expand (p, sh)  t = Concat <axis = -1> (o, x)
    y = Exp (t)
[slice of hidden] token
    four = Constant <value_ints = [4]> ()  t = Slice (x, zero, four, two)  y = Exp (t)
[first place] cuts along the places
    t = Slice (x, zero, one, one)  y = Mul (t, x)
[row turned round] cuts along the places
    low = Constant <value_ints = [-9223372036854775808]> ()  t = Slice (x, last, low, one, last)  y = MatMul (t, W1)
[pad of hidden] token
    pads = Constant <value_ints = [0, 0, 1, 0, 0, 1]> ()  t = Pad (x, pads)  y = Exp (t)
[pad of a row] no plain sequence axis
    pads = Constant <value_ints = [0, 1, 0, 0, 0, 0]> ()  t = Pad (x, pads)  y = ReduceSum (t, one)
[turned weights] block
    $weights  t = Transpose <perm = [0, 2, 1]> (w)  $sum
[weights with an axis for heads] block
    $weights  t = Unsqueeze (w, one)  u = Squeeze (t, one)  y = MatMul (u, x)
[repeated weights] block
    $heads  to = Constant <value_ints = [1, 2, 1, 1]> ()  t = Expand (w4, to)  x4 = Unsqueeze (x, one)
    c = MatMul (t, x4)  y = ReduceSum <keepdims = 0> (c, one)
[reshape to heads] token
    to = Constant <value_ints = [0, 0, 4, 2]> ()  t = Reshape (x, to)  e = Exp (t)
    back = Constant <value_ints = [0, 0, 8]> ()  y = Reshape (e, back)
[reshape across places] moves values between places
    $extents  b = Shape <start = 0, end = 1> (ids)  eight = Constant <value_ints = [8]> ()
    to = Concat <axis = 0> (b, eight, s)  t = Reshape (x, to)  back = Shape (x)  y = Reshape (t, back)
[table by token] token
    t = Gather (T, ids)  y = MatMul (t, W1)
[one place of the row] takes chosen places
    t = Gather <axis = 1> (x, zero)  y = Mul (x, t)
[one place of hidden] token
    t = Gather <axis = 2> (x, zero)  y = Mul (x, t)
[elements of hidden] token
    wide = Unsqueeze (ids, last)  eight = Constant <value_int = 8> ()  i = Mod (wide, eight)
    t = GatherElements <axis = 2> (x, i)  y = Mul (x, t)
[elements of the row] takes chosen places
    i = Mod (ids, scalar_one)  k = Cast <to = 1> (ids)  t = GatherElements <axis = 1> (k, i)
    u = Unsqueeze (t, last)  y = Mul (x, u)
[running sum] token
    t = CumSum (mask, scalar_one)  f = Cast <to = 1> (t)  u = Unsqueeze (f, last)  y = Mul (x, u)
[running sum before each place] token
    t = CumSum <exclusive = 1> (ids, scalar_one)  f = Cast <to = 1> (t)  u = Unsqueeze (f, last)  y = Mul (x, u)
[running sum from the end] cannot be restarted
    t = CumSum <reverse = 1> (mask, scalar_one)  f = Cast <to = 1> (t)  u = Unsqueeze (f, last)  y = Mul (x, u)
[mask read at the key of each pair] pair
    $spread  at = Concat <axis = -1> (of_row, of_key)  t = GatherND (kept, at)  $masked
[mask read at the place behind the key] chosen places
    $spread  next = Sub (of_key, scalar_one)  at = Concat <axis = -1> (of_row, next)  t = GatherND (kept, at)  $masked
[mask read in another row] chosen places
    $spread  at = Concat <axis = -1> (of_key, of_key)  t = GatherND (kept, at)  $masked
[mask read at places that the input names] chosen places
    $spread  at = Unsqueeze (ids, last)  t = GatherND <batch_dims = 1> (kept, at)  f = Cast <to = 1> (t)
    u = Unsqueeze (f, last)  y = Mul (x, u)
[running sum of hidden states along a row] cannot be restarted
    t = CumSum (x, scalar_one)  y = MatMul (t, W1)
[running sum over hidden] token
    axis = Constant <value_int = 2> ()  t = CumSum (x, axis)  y = MatMul (t, W1)
[einsum with weights] token
    $weights  t = Einsum <equation = "bqk,bkh->bqh"> (w, x)  y = Relu (t)
[einsum with scores] no attention mask has kept apart
    $pairs  t = Einsum <equation = "bqk,bkh->bqh"> (sc, x)  y = Relu (t)
[einsum of scores] pair
    t = Einsum <equation = "bqh,bkh->bqk"> (x, x)  w = Softmax (t)  y = MatMul (w, x)
[einsum without a result] does not name all axes
    t = Einsum <equation = "bsh,hk"> (x, W1)  y = Relu (t)
[fused attention] token
    t = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)  y = Relu (t)
[fused attention with a result for later runs] more than its first output
    t, k, v = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)  kk = ReduceSum (k)
    u = Add (t, kk)  y = Relu (u)
[reader of a place that mixes] its input mixes
    m = ReduceSum (x, one)  t = Relu (m)  y = Mul (x, t)
[unknown operator] not known
    t = local.Twice (x)  y = MatMul (t, W1)
[unknown operator on pairs] none of its inputs carries tokens
    $pairs  t = Det (sc)  y = MatMul (x, W1)
[product by a vector] one of its operands is a vector
    t = MatMul (x, V)  u = Unsqueeze (t, last)  y = Mul (x, u)
[places moved by one] it pads along the places of a row
    pads = Constant <value_ints = [0, 1, 0, 0, -1, 0]> ()  t = Pad (x, pads)  y = MatMul (t, W1)
[rows moved by one] it pads along the rows
    pads = Constant <value_ints = [1, 0, 0, -1, 0, 0]> ()  t = Pad (x, pads)  y = MatMul (t, W1)
[einsum with a table of positions] 'p' is a table of positions
    $counted  p = Gather (T, r)  t = Einsum <equation = "bsh,sh->bsh"> (x, p)  y = Relu (t)
[elements at positions] its indices are positions of a row
    $counted  ends = Constant <value_ints = [0, 2]> ()  i = Unsqueeze (r, ends)  t = GatherElements <axis = 2> (x, i)
    y = Add (x, t)
[tokens times positions] it multiplies by a matrix of positions
    $counted  p = Gather (T, r)  pt = Transpose <perm = [1, 0]> (p)  t = MatMul (x, pt)  w = Softmax (t)
    y = MatMul (w, x)
"""
FUNCTIONS = '<domain: "local", opset_import: ["" : 17]> Twice (a) => (t) { t = Add (a, a) }'
#: An attention of its own, so that there is always something to mask.
HEAD = """
    head_turned = Transpose <perm = [0, 2, 1]> (x)  head_scores = MatMul (x, head_turned)
    head_key = Unsqueeze (keep, one)  head_on = Constant <value_float = 1.0> ()  head_off = Sub (head_on, head_key)
    head_far = Constant <value_float = -1e9> ()  head_hidden = Mul (head_off, head_far)
    head_masked = Add (head_scores, head_hidden)  head_weights = Softmax (head_masked)
    pooled = MatMul (head_weights, x)
"""
STATES = ("token", "pair", "block")


def read() -> list[Any]:
    rows = []
    for row in TABLE.strip().split("\n["):
        first, lines = row.split("\n", 1)
        name, verdict = first.strip("[").split("] ")
        while "$" in lines:
            lines = re.sub(r"\$(\w+)", lambda match: SHARED[match[1]], lines)
        rows.append(pytest.param(lines, verdict, id=name))
    return rows


ALL = read()
ACCEPTED = [row for row in ALL if row.values[1] in STATES]
REFUSED = [row for row in ALL if row.values[1] not in STATES]


def build(body: str) -> onnx.ModelProto:
    return around(body, functions=FUNCTIONS if "local." in body else "", head=HEAD)


def analyse(model: onnx.ModelProto, tensor: str) -> tuple[Any, str]:
    """Why the node that makes ``tensor`` mixes samples (nothing where it does not), and the state of its result."""
    graph = import_graph(PassManager([*BEFORE]).run(copy_of(model)))
    graph.toposort(mode="nodes")
    shapes: dict[str, list[int | str]] = {name: [str(BATCH), str(SEQ)] for name in ("ids", "mask")}
    axes = AxisMap(graph, infer_symbolic_shapes(graph, shapes))
    place(graph, axes)
    analysis = RowAnalysis(graph, axes, Positional(graph, axes), COLUMNS, ROW_RULES)
    refused = analysis.run()
    node = next(node for node in graph.nodes if any(output.name == tensor for output in node.outputs))
    state = analysis.plan.states.get(tensor)
    return refused.get(id(node)), state.name.lower() if state else ""


def said(refusal: Any) -> str:
    """What a refusal says; "" where there is none."""
    return str(refusal) if refusal else ""


@pytest.mark.parametrize(("body", "state"), ACCEPTED)
def test_what_keeps_samples_apart_has_a_state(body: str, state: str) -> None:
    refusal, state_of_t = analyse(build(body), "t")
    assert said(refusal) == ""
    assert state_of_t == state


@pytest.mark.parametrize(("body", "reason"), REFUSED)
def test_what_mixes_samples_says_why(body: str, reason: str) -> None:
    refusal, _ = analyse(build(body), "t")
    assert reason in said(refusal)


def shapes() -> dict[str, list[int]]:
    return {name: [ROWS, COLUMNS] for name in ("ids", "mask")}


@pytest.mark.parametrize(("body", "state"), ACCEPTED)
def test_samples_that_share_a_row_get_what_they_get_alone(body: str, state: str) -> None:
    model = build(body)
    converted = PassManager([*BEFORE, InsertAttentionMask(shapes())]).run(copy_of(model))
    batch = samples([length for row in LAYOUT for length in row])
    feeds: Arrays = {name: np.zeros((ROWS, COLUMNS), np.int64) for name in ("ids", "mask", "position_ids")}
    places = [
        (row, sum(lengths[:number]), length, number + 1)
        for row, lengths in enumerate(LAYOUT)
        for number, length in enumerate(lengths)
    ]
    for sample, (row, start, length, number) in zip(batch, places, strict=True):
        own = slice(start, start + length)
        feeds["ids"][row, own], feeds["mask"][row, own] = sample["ids"], number
        feeds["position_ids"][row, own] = np.arange(length)
    got = run(converted, feeds)
    for want, (row, start, length, _) in zip(one_by_one(model, batch), places, strict=True):
        for name, values in want.items():
            part = got[name][row, start : start + length]
            np.testing.assert_allclose(part, values, atol=TOLERANCE, rtol=TOLERANCE, err_msg=f"{name} of {length}")


@pytest.mark.parametrize(("body", "reason"), REFUSED)
def test_the_pass_refuses_what_mixes_samples(body: str, reason: str) -> None:
    with pytest.raises(PackingError):
        PassManager([*BEFORE, InsertAttentionMask(shapes())]).run(build(body))


def test_positions_that_count_from_the_end_of_a_row_are_refused_by_the_rewrite() -> None:
    body = "$counted  l = Sub (n, r)  p = Gather (T, l)  t = Add (x, p)  y = MatMul (t, W1)"
    for name, lines in SHARED.items():
        body = body.replace(f"${name}", lines)
    body = body.replace("$extents", SHARED["extents"])
    with pytest.raises(PackingError, match="depends on the length of the row"):
        PassManager([*BEFORE, InsertAttentionMask(shapes())]).run(build(body))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "$conv  ct = Transpose <perm = [0, 2, 1]> (c)  sc = MatMul (ct, c)  w = Softmax (sc)  y = MatMul (w, ct)",
            "samples cannot share a row of this model: Conv 'c': .*, and the attention Softmax 'w' reads its result",
        ),
        ("t = Softmax <axis = 1> (x)  y = MatMul (t, W1)", "no softmax over pairs of places was found"),
        ("y = MatMul (x, W1)", "no softmax over pairs of places was found"),
    ],
    ids=["a cause before it", "a softmax over places alone", "no softmax"],
)
def test_where_no_attention_can_be_masked_the_first_cause_is_named(body: str, message: str) -> None:
    body = body.replace("$conv", "xt = Transpose <perm = [0, 2, 1]> (x)  c = Conv <pads = [1, 1]> (xt, K3)")
    packing = InsertAttentionMask(shapes(), {"max_valid_num": 9, "segment_max_size": COLUMNS})
    with pytest.raises(PackingError, match=message):
        PassManager([*BEFORE, packing]).run(around(body))


def test_a_mask_that_is_read_for_each_pair_leaves_its_head_to_unpack() -> None:
    body = next(row.values[0] for row in ACCEPTED if row.id == "mask read at the key of each pair")
    model = around(body, head="owned = Mul (y, column)  pooled = ReduceSum <keepdims = 0> (owned, one)")
    packing = InsertAttentionMask(shapes(), {"max_valid_num": 9, "segment_max_size": COLUMNS})
    packed_model = PassManager([*BEFORE, packing]).run(model)
    assert "Unpack" in {node.op_type for node in packed_model.graph.node}
