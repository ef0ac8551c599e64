"""The rules of the isolation proof, one use a row: proved, or what is said of it.

All runs unpacked here, so ``x`` [n, L, 8] is an ordinary number in padded places, and ``column`` [n, L, 1] is zero.
What is proved must give each sample of a padded batch what it gets alone.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

from passes.graph_io import import_graph
from passes.manager import PassManager
from passes.packing.isolation.proof import IsolationProof
from passes.packing.isolation.rules import RULES
from passes.packing.isolation.values import Values
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.sides import PlacedGraph, Placement
from passes.refusal import Cause
from passes.shapes.symbolic import infer_symbolic_shapes
from tests.numerics import Arrays, one_by_one, run
from tests.passes.packing.packs import around, samples
from tests.passes.rewrites import copy_of

BEFORE = ("extract_constant_to_initializer", "constant_folding", "eliminate_identity")
LONGEST = 9
TOLERANCE = 1e-5

SHARED = {
    "masked": "m = Mul (x, column)",
    "low": "on = Constant <value_float = 1.0> ()  off = Sub (on, column)  far = Constant <value_float = -1e9> ()"
    "  gone = Mul (off, far)  l = Add (x, gone)",
    "scores": "xt = Transpose <perm = [0, 2, 1]> (x)  sc = MatMul (x, xt)",
    "weights": "$scores  key = Unsqueeze (keep, one)  on = Constant <value_float = 1.0> ()  off = Sub (on, key)"
    "  far = Constant <value_float = -1e9> ()  gone = Mul (off, far)  hidden = Add (sc, gone)  w = Softmax (hidden)",
    "levels": "at = Constant <value_int = 3> ()  point = Cast <to = 3> (at)  step = Constant <value_float = 0.04> ()",
    "wide": "at = Constant <value_int = 120> ()  point = Cast <to = 3> (at)  step = Constant <value_float = 50.0> ()",
    "unhidden": "$scores  key = Unsqueeze (keep, one)  on = Constant <value_float = 1.0> ()  off = Sub (on, key)"
    "  far = Constant <value_float = -1e4> ()  gone = Mul (off, far)  hidden = Add (sc, gone)",
    "channels": "c = Transpose <perm = [0, 2, 1]> (x)",
    "masked_channels": "$masked  c = Transpose <perm = [0, 2, 1]> (m)",
    "end": "end = Constant <value_ints = [9223372036854775807]> ()",
}

#: [what] then "proved", or what is said, after "mixes: " where even samples of one length might meet; ``t`` is judged.
TABLE = """
[sum of masked tokens] proved
    $masked  t = ReduceSum (m, one)  y = Mul (t, x)
[sum of tokens] reduces over padding
    t = ReduceSum (x, one)  y = Mul (t, x)
[sum of squares of masked tokens] proved
    $masked  t = ReduceSumSquare <axes = [1]> (m)  y = Mul (t, x)
[mean of masked tokens] averages over padding
    $masked  t = ReduceMean <axes = [1]> (m)  y = Mul (t, x)
[maximum of masked tokens] reduces over padding
    $masked  t = ReduceMax <axes = [1]> (m)  y = Mul (t, x)
[maximum of what is low at padding] proved
    $low  t = ReduceMax <axes = [1]> (l)  y = Mul (t, x)
[minimum of what is low at padding] reduces over padding
    $low  t = ReduceMin <axes = [1]> (l)  y = Mul (t, x)
[logarithm of a sum of exponentials of what is low] proved
    $low  t = ReduceLogSumExp <axes = [1]> (l)  y = Mul (t, x)
[product of masked tokens] reduces over padding
    $masked  t = ReduceProd <axes = [1]> (m)  y = Mul (t, x)
[sum over hidden] proved
    t = ReduceSum (x, two)  y = Mul (t, x)
[sum over samples] reduces over the samples of a batch
    $masked  t = ReduceSum (m, zero)  y = Mul (t, x)
[place of the largest of what is low at padding] proved
    $low  t = ArgMax <axis = 1> (l)  f = Cast <to = 1> (t)  y = Mul (f, x)
[place of the largest] may find its place in padding
    t = ArgMax <axis = 1> (x)  f = Cast <to = 1> (t)  y = Mul (f, x)
[last place of the largest] may find its place in padding
    $low  t = ArgMax <axis = 1, select_last_index = 1> (l)  f = Cast <to = 1> (t)  y = Mul (f, x)
[softmax over places of what is low at padding] proved
    $low  t = Softmax <axis = 1> (l)  y = Mul (t, x)
[softmax over places] normalises over padding
    t = Softmax <axis = 1> (x)  y = Mul (t, x)
[softmax over hidden] proved
    t = Softmax <axis = 2> (x)  y = Mul (t, x)
[masked attention] proved
    $weights  t = MatMul (w, x)  y = Relu (t)
[attention without a mask] normalises over padding
    $scores  t = Softmax (sc)  y = MatMul (t, x)
[scores times tokens] sums over padding
    $scores  t = MatMul (sc, x)  y = Relu (t)
[scores of tokens] proved
    xt = Transpose <perm = [0, 2, 1]> (x)  t = MatMul (x, xt)  k = Unsqueeze (keep, one)  z = Mul (t, k)
    y = MatMul (z, x)
[einsum with weights] proved
    $weights  t = Einsum <equation = "bqk,bkh->bqh"> (w, x)  y = Relu (t)
[einsum over the samples] sums over the samples of a batch
    $masked  t = Einsum <equation = "bsh,bsk->shk"> (m, m)  o = ReduceSum <keepdims = 0> (t)  y = Mul (x, o)
[einsum of a diagonal] mixes: takes a diagonal
    $scores  t = Einsum <equation = "bss->bs"> (sc)  u = Unsqueeze (t, last)  y = Mul (u, x)
[layer norm over hidden] proved
    t = LayerNormalization <axis = -1> (x, V, V1)  y = Relu (t)
[layer norm over places] normalises over padding
    t = LayerNormalization <axis = 1> (x, V)  y = Relu (t)
[skip layer norm] proved
    e = Relu (x)  t = com.microsoft.SkipLayerNormalization (x, e, V, V1)  y = Relu (t)
[norm of hidden] proved
    t = LpNormalization <axis = 2> (x)  y = Mul (t, x)
[norm of places] normalises over padding
    t = LpNormalization <axis = 1> (x)  y = Mul (t, x)
[instance norm] normalises over padding
    $channels  t = InstanceNormalization (c, V, V1)  y = Transpose <perm = [0, 2, 1]> (t)
[batch norm of channels] proved
    $channels  a = Abs (V)  t = BatchNormalization (c, V, V1, V, a)  y = Transpose <perm = [0, 2, 1]> (t)
[norm over samples and places] over the samples of a batch
    t = MeanVarianceNormalization <axes = [0, 1]> (x)  y = Relu (t)
[running sum] proved
    t = CumSum (x, scalar_one)  y = Relu (t)
[running sum from the end] sums from the end of the row
    t = CumSum <reverse = 1> (x, scalar_one)  y = Relu (t)
[running sum of masked tokens from the end] proved
    $masked  t = CumSum <reverse = 1> (m, scalar_one)  y = Relu (t)
[running sum over samples] sums over the samples of a batch
    t = CumSum (x, scalar_zero)  y = Relu (t)
[sum of quantised masked tokens] proved
    $levels  $masked  q = QuantizeLinear (m, step, point)  d = DequantizeLinear (q, step, point)
    t = ReduceSum (d, one)  y = Mul (t, x)
[sum of levels of masked tokens] reduces over padding
    $levels  $masked  q = QuantizeLinear (m, step, point)  c = Cast <to = 1> (q)  t = ReduceSum (c, one)  y = Mul (t, x)
[softmax of quantised scores whose levels reach the mask] proved
    $wide  $unhidden  q = QuantizeLinear (hidden, step, point)  d = DequantizeLinear (q, step, point)
    t = Softmax (d)  y = MatMul (t, x)
[softmax of quantised scores that cut the mask] nothing masks
    $levels  $unhidden  q = QuantizeLinear (hidden, step, point)  d = DequantizeLinear (q, step, point)
    t = Softmax (d)  y = MatMul (t, x)
[softmax of scores by a quantised mask that keeps it low] proved
    $wide  $scores  key = Unsqueeze (keep, one)  on = Constant <value_float = 1.0> ()  off = Sub (on, key)
    qt = Constant <value_int = -80> ()  qfar = Cast <to = 3> (qt)  far = DequantizeLinear (qfar, step, point)
    gone = Mul (off, far)  q = QuantizeLinear (gone, step, point)  d = DequantizeLinear (q, step, point)
    hidden = Add (sc, d)  t = Softmax (hidden)  y = MatMul (t, x)
[quantised by a measured scale] mixes: depends on the inputs
    a = Abs (x)  step = ReduceMax <keepdims = 0> (a)  t = QuantizeLinear (x, step)  d = DequantizeLinear (t, step)
    y = Relu (d)
[one scale for all] mixes: one scale from all samples
    t, scale, point = DynamicQuantizeLinear (x)  y = DequantizeLinear (t, scale, point)
[average pool of all places] averages over padding
    $masked_channels  t = GlobalAveragePool (c)  tt = Transpose <perm = [0, 2, 1]> (t)  y = Mul (tt, x)
[maximum pool of all places] reduces over padding
    $channels  t = GlobalMaxPool (c)  tt = Transpose <perm = [0, 2, 1]> (t)  y = Mul (tt, x)
[largest of hidden] proved
    k = Constant <value_ints = [3]> ()  t, i = TopK <axis = 2> (x, k)  y = Relu (t)
[largest places] sorts padding
    t, i = TopK <axis = 1> (x, one)  y = Mul (t, x)
[turned] proved
    t = Transpose <perm = [0, 2, 1]> (x)  y = Transpose <perm = [0, 2, 1]> (t)
[reshape to heads] proved
    to = Constant <value_ints = [0, 0, 4, 2]> ()  t = Reshape (x, to)  back = Constant <value_ints = [0, 0, 8]> ()
    y = Reshape (t, back)
[reshape across places] moves values between the places
    s = Shape <start = 1, end = 2> (ids)  b = Shape <start = 0, end = 1> (ids)  e = Constant <value_ints = [8]> ()
    to = Concat <axis = 0> (b, e, s)  t = Reshape (x, to)  back = Shape (x)  y = Reshape (t, back)
[expand of a sum] proved
    $masked  f = ReduceSum (m, one)  s = Shape (x)  t = Expand (f, s)  y = Mul (t, x)
[repeated row] repeats a row with its padding
    r = Constant <value_ints = [1, 2, 1]> ()  t = Tile (x, r)  o = ReduceMax <axes = [1]> (x)  y = Mul (x, o)
[something in front] proved
    $end  f = Slice (x, zero, one, one)  t = Concat <axis = 1> (f, x)  y = Slice (t, one, end, one)
[something behind] behind its padding
    $end  f = Slice (x, zero, one, one)  t = Concat <axis = 1> (x, f)  y = Slice (t, one, end, one)
[joined hidden] proved
    t = Concat <axis = 2> (x, x)  y = Relu (t)
[joined samples] mixes: joins samples with others
    t = Concat <axis = 0> (x, x)  b = Shape <start = 0, end = 1> (ids)  y = Slice (t, zero, b, zero)
[split of hidden] proved
    t, u = Split <axis = 2> (x)  y = Mul (t, u)
[first place] proved
    t = Slice (x, zero, one, one)  y = Mul (t, x)
[last place] takes the last places
    $end  t = Slice (x, last, end, one)  y = Mul (t, x)
[row turned round] turns a row round
    low = Constant <value_ints = [-9223372036854775808]> ()  t = Slice (x, last, low, one, last)  y = Mul (t, x)
[every second place] proved
    $end  step = Constant <value_ints = [2]> ()  t = Slice (x, zero, end, one, step)  y = Relu (t)
[without the first] proved
    $end  t = Slice (x, one, end, one)  y = Relu (t)
[one sample of all] mixes: takes some samples
    t = Slice (x, zero, one, zero)  y = Mul (t, x)
[pad in front] proved
    $end  pads = Constant <value_ints = [0, 1, 0, 0, 0, 0]> ()  t = Pad (x, pads)  y = Slice (t, one, end, one)
[places moved towards the end] it cuts the end of a row
    pads = Constant <value_ints = [0, 1, 0, 0, -1, 0]> ()  t = Pad (x, pads)  y = Mul (t, x)
[masked places moved towards the front] proved
    $masked  pads = Constant <value_ints = [0, -1, 0, 0, 1, 0]> ()  t = Pad (m, pads)  y = Mul (t, column)
[places moved towards the front] it adds places at the end of a row
    pads = Constant <value_ints = [0, -1, 0, 0, 1, 0]> ()  t = Pad (x, pads)  y = Mul (t, column)
[masked places without the last] it cuts the end of a row
    $masked  pads = Constant <value_ints = [0, 0, 0, 0, -1, 0]> ()  t = Pad (m, pads)  y = ReduceSum (t, one)
[samples moved along a batch] mixes: it adds samples to a batch, or moves them
    pads = Constant <value_ints = [1, 0, 0, -1, 0, 0]> ()  t = Pad (x, pads)  y = Mul (t, x)
[pad behind] adds places at the end
    $end  pads = Constant <value_ints = [0, 0, 0, 0, 1, 0]> ()  t = Pad (x, pads)  y = Slice (t, one, end, one)
[pad of masked tokens behind] proved
    $end  $masked  pads = Constant <value_ints = [0, 0, 0, 0, 1, 0]> ()  t = Pad (m, pads)  y = Slice (t, one, end, one)
[first place repeated in front] proved
    $end  pads = Constant <value_ints = [0, 1, 0, 0, 0, 0]> ()  t = Pad <mode = "edge"> (x, pads)
    y = Slice (t, one, end, one)
[last place repeated behind] fills what it adds with places of the row
    $end  $masked  pads = Constant <value_ints = [0, 0, 0, 0, 1, 0]> ()  t = Pad <mode = "edge"> (m, pads)
    y = Slice (t, one, end, one)
[places mirrored behind] fills what it adds with places of the row
    $end  $masked  pads = Constant <value_ints = [0, 0, 0, 0, 1, 0]> ()  t = Pad <mode = "reflect"> (m, pads)
    y = Slice (t, one, end, one)
[places mirrored in front] fills what it adds with places of the row
    $end  pads = Constant <value_ints = [0, 1, 0, 0, 0, 0]> ()  t = Pad <mode = "reflect"> (x, pads)
    y = Slice (t, one, end, one)
[triangle of scores] proved
    xt = Transpose <perm = [0, 2, 1]> (x)  sc = MatMul (x, xt)  t = Trilu <upper = 0> (sc)  y = MatMul (t, x)
[one hot] proved
    depth = Constant <value_int = 64> ()  values = Constant <value_floats = [0.0, 1.0]> ()
    t = OneHot (ids, depth, values)  y = MatMul (t, T)
[first place by index] proved
    t = Gather <axis = 1> (x, zero)  y = Mul (t, x)
[last place by index] takes the last place
    t = Gather <axis = 1> (x, last)  y = Mul (t, x)
[third place by index] may be padding
    t = Gather <axis = 1> (x, two)  y = Mul (t, x)
[table by token] proved
    t = Gather (T, ids)  y = Relu (t)
[first sample by index] chooses over the samples
    t = Gather (x, zero)  y = Mul (t, x)
[elements of hidden] proved
    wide = Unsqueeze (ids, last)  eight = Constant <value_int = 8> ()  i = Mod (wide, eight)
    t = GatherElements <axis = 2> (x, i)  y = Mul (x, t)
[convolution of masked tokens] proved
    $masked_channels  t = Conv <pads = [1, 1]> (c, K3)  y = Transpose <perm = [0, 2, 1]> (t)
[convolution] reaches over the end
    $channels  t = Conv <pads = [1, 1]> (c, K3)  y = Transpose <perm = [0, 2, 1]> (t)
[convolution of width 1] proved
    $channels  t = Conv (c, K1)  y = Transpose <perm = [0, 2, 1]> (t)
[convolution in steps] proved
    $masked_channels  t = Conv <pads = [1, 1], strides = [2]> (c, K3)  y = Transpose <perm = [0, 2, 1]> (t)
[convolution in steps over tokens that nothing masks] it reaches over the end
    $channels  t = Conv <pads = [1, 1], strides = [2]> (c, K3)  y = Transpose <perm = [0, 2, 1]> (t)
[convolution in steps without pads behind] proved
    $channels  t = Conv <pads = [2, 0], strides = [2]> (c, K3)  y = Transpose <perm = [0, 2, 1]> (t)
[convolution in steps with pads by the length] its pads depend on the length
    $masked_channels  t = Conv <auto_pad = "SAME_UPPER", strides = [2]> (c, K3)  o = Transpose <perm = [0, 2, 1]> (t)
    y = Relu (o)
[average of three] as many places as there are
    $masked_channels  t = AveragePool <kernel_shape = [3], pads = [1, 1]> (c)  y = Transpose <perm = [0, 2, 1]> (t)
[average of three that counts pads] proved
    $masked_channels  t = AveragePool <kernel_shape = [3], pads = [1, 1], count_include_pad = 1> (c)
    y = Transpose <perm = [0, 2, 1]> (t)
[maximum of three] reaches over the end
    $masked_channels  t = MaxPool <kernel_shape = [3], pads = [1, 1]> (c)  y = Transpose <perm = [0, 2, 1]> (t)
[maximum of three of what is low] proved
    $low  c = Transpose <perm = [0, 2, 1]> (l)  p = MaxPool <kernel_shape = [3], pads = [1, 1]> (c)
    t = Transpose <perm = [0, 2, 1]> (p)  y = Relu (t)
[fused attention that counts keys] proved
    n = Cast <to = 6> (mask)  t = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x, , n)  y = Relu (t)
[fused attention without a mask] attends to padding
    t = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)  y = Relu (t)
[rounded tokens] proved
    t = Round (x)  y = Mul (t, x)
[logarithm of masked tokens, masked again] proved
    $masked  a = Abs (m)  t = Log (a)  z = Where (truth, t, m)  y = Relu (z)
[length of the run] reads the padded length
    s = Shape <start = 1, end = 2> (ids)  f = Cast <to = 1> (s)  t = Div (x, f)  y = Relu (t)
[samples of the run] mixes: reads the number of samples
    s = Shape <start = 0, end = 1> (ids)  f = Cast <to = 1> (s)  t = Div (x, f)  y = Relu (t)
[unknown operator] mixes: not known to keep
    t = local.Twice (x)  y = Relu (t)
"""
FUNCTIONS = '<domain: "local", opset_import: ["" : 17]> Twice (a) => (t) { t = Add (a, a) }'


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
PROVED = [row for row in ALL if row.values[1] == "proved"]


def build(body: str) -> onnx.ModelProto:
    body = ("truth = Cast <to = 9> (column)  " if "truth" in body else "") + body
    return around(body, functions=FUNCTIONS if "local." in body else "")


def prove(model: onnx.ModelProto) -> tuple[IsolationProof, Any, list[Any]]:
    """The proof of a graph of which nothing runs packed, the graph, and what is not proved."""
    graph = import_graph(PassManager([*BEFORE]).run(copy_of(model)))
    graph.toposort(mode="nodes")
    shapes: dict[str, list[int | str]] = {name: [str(BATCH), str(SEQ)] for name in ("ids", "mask")}
    axes = AxisMap(graph, infer_symbolic_shapes(graph, shapes))
    proof = IsolationProof(PlacedGraph(graph, axes, Placement()), ["mask"], LONGEST, RULES)
    return proof, graph, proof.run()


def leak_at(model: onnx.ModelProto, tensor: str) -> tuple[str, bool]:
    """What is said of the node that makes ``tensor`` ("" where it is proved), and whether it may mix samples."""
    _, _, leaks = prove(model)
    for node, refusal in leaks:
        if any(output.name == tensor for output in node.outputs):
            return refusal.reason, refusal.cause is not Cause.PADDING
    return "", False


@pytest.mark.parametrize(("body", "verdict"), ALL)
def test_a_node_is_proved_or_the_reason_is_said(body: str, verdict: str) -> None:
    reason, mixes = leak_at(build(body), "t")
    if verdict == "proved":
        assert reason == ""
    else:
        assert verdict.removeprefix("mixes: ") in reason
        assert mixes == (
            verdict.startswith("mixes: ") or "samples of a batch" in verdict or "over the samples" in verdict
        )


@pytest.mark.parametrize(("body", "verdict"), PROVED)
def test_what_is_proved_gives_a_sample_of_a_padded_batch_what_it_gets_alone(body: str, verdict: str) -> None:
    model, batch = build(body), samples((5, 9, 1, 7))
    feeds: Arrays = {name: np.zeros((len(batch), LONGEST), np.int64) for name in ("ids", "mask")}
    for row, sample in enumerate(batch):
        for name, values in sample.items():
            feeds[name][row, : len(values)] = values
    got = run(model, feeds)
    for row, want in enumerate(one_by_one(model, batch)):
        own = got["y"][row][tuple(map(slice, want["y"].shape))]
        np.testing.assert_allclose(own, want["y"], atol=TOLERANCE, rtol=1e-4, err_msg=f"sample {row}")


@pytest.mark.parametrize(
    ("body", "tensor", "padding"),
    [
        ("m = Mul (x, column)", "m", Values(0, 0)),
        ("on = Constant <value_float = 1.0> ()  o = Sub (on, column)", "o", Values(1, 1)),
        ("f = Constant <value_float = -5.0> ()  o = Mul (column, f)  e = Exp (o)", "e", Values(1, 1)),
        ("s = Sigmoid (x)", "s", Values(0, 1)),
        ("c = Cos (x)", "c", Values(-1, 1)),
        ("n = Not (truth)", "n", Values(1, 1)),
        ("m = Mul (x, column)  a = Asinh (m)  r = Round (a)", "r", Values(0, 0)),
    ],
    ids=["masked", "one-minus", "exponential", "bounded", "cosine", "not", "zero-stays-zero"],
)
def test_what_stands_in_padding(body: str, tensor: str, padding: Values) -> None:
    proof, graph, _ = prove(build(f"{body}  y = Relu (x)"))
    assert proof.facts(graph.tensors()[tensor]).at(1) == padding
