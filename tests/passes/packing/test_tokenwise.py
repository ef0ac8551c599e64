"""One operator family a row: a use that treats every token alone, and one that mixes tokens. Both must give the numbers
of each sample alone; only the first may run packed."""

import re

import pytest
from onnx import TensorProto
from onnx.helper import make_tensor

from tests.passes.packing.packs import (
    around,
    assert_each_is_right,
    packed,
    run_declared,
    run_ragged,
    samples,
    why_unpacked,
)

#: Lines that several rows begin with; ``$name`` stands for them.
SHARED = {
    "extents": "all = Shape (ids)  b = Shape <start = 0, end = 1> (ids)  s = Shape <start = 1, end = 2> (ids)",
    "heads": """
        heads = Constant <value_ints = [0, 0, 4, 2]> ()  h4 = Reshape (x, heads)
        h = Transpose <perm = [0, 2, 1, 3]> (h4)
    """,
    "positions": "$extents  p = Slice (P, zero, s, one)",
    "count": "$extents  n = Squeeze (s, zero)  r = Range (scalar_zero, n, scalar_one)",
    "flat": "rows = Constant <value_ints = [-1, 8]> ()",
    "levels": "at = Constant <value_int = 3> ()  point = Cast <to = 3> (at)  step = Constant <value_float = 0.04> ()",
    "width": "width = Constant <value_ints = [8]> ()",
    "scores": """
        xt = Transpose <perm = [0, 2, 1]> (x)  raw = MatMul (x, xt)  key = Unsqueeze (keep, one)
        off = Constant <value_float = -1e9> ()  on = Constant <value_float = 1.0> ()  drop = Sub (on, key)
        bias = Mul (drop, off)  scores = Add (raw, bias)
    """,
}

#: [what] then "packed", "either", or what the reason says; then lines that make ``t`` and, from it, ``y``.
ROWS = """
[softmax over hidden] packed
    t = Softmax <axis = -1> (x)  y = MatMul (t, W1)
[softmax over seq] none of its inputs carries
    $scores  t = Softmax <axis = -1> (scores)  y = MatMul (t, x)
[log softmax over hidden] packed
    t = LogSoftmax <axis = 2> (x)  y = MatMul (t, W1)
[mean over hidden] packed
    t = ReduceMean <axes = [2]> (x)  c = Sub (x, t)  y = MatMul (c, W1)
[sum over seq] not one axis for each
    m = Mul (x, column)  t = ReduceSum (m, one)  y = Add (x, t)
[sum over hidden] packed
    m = Mul (x, column)  t = ReduceSum <keepdims = 0> (m, two)  y = Unsqueeze (t, last)
[maximum over heads] packed
    $heads  t = ReduceMax <axes = [1]> (h)  y = Relu (t)
[reshape to heads] packed
    heads = Constant <value_ints = [0, 0, 4, 2]> ()  t = Reshape (x, heads)  e = Exp (t)
    back = Constant <value_ints = [0, 0, 8]> ()  q = Reshape (e, back)  y = MatMul (q, W1)
[reshape that folds seq] not one axis for each
    $width  $extents  w = Mul (s, width)  to = Concat <axis = 0> (b, w)  m = Mul (x, column)  t = Reshape (m, to)
    y = ReduceSum (t, one)
[reshape across tokens] moves values
    $extents  $width  to = Concat <axis = 0> (b, width, s)  k = Reshape (x, to)
    tr = Transpose <perm = [0, 2, 1]> (k)  back = Shape (x)  t = Reshape (k, back)  y = MatMul (t, W1)
[reshape in and out] packed
    $flat  $width  $extents  f = Reshape (x, rows)  t = Gemm (f, W1, V)  g = Relu (t)
    to = Concat <axis = 0> (all, width)  y = Reshape (g, to)
[gemm on rows of the sequence first] none of its inputs carries
    $flat  $width  $extents  sbh = Transpose <perm = [1, 0, 2]> (x)  f = Reshape (sbh, rows)  t = Gemm (f, W1, V)
    to = Concat <axis = 0> (s, b, width)  r = Reshape (t, to)  y = Transpose <perm = [1, 0, 2]> (r)
[gemm of pooled rows] none of its inputs carries
    m = Mul (x, column)  first = ReduceSum <keepdims = 0> (m, one)  t = Gemm (first, W1, V)  y = Relu (t)
[concat along hidden] packed
    e = Relu (x)  t = Concat <axis = -1> (x, e)  y = Exp (t)
[concat along seq] not one axis for each
    e = Relu (x)  t = Concat <axis = 1> (x, e)  m = Unsqueeze (keep, last)  mm = Concat <axis = 1> (m, m)
    k = Mul (t, mm)  y = ReduceSum (k, one)
[concat with what each sample has] packed
    m = Mul (x, column)  f = ReduceSum (m, one)  sh = Shape (x)  ff = Expand (f, sh)  t = Concat <axis = 2> (x, ff)
    y = Exp (t)
[split along hidden] packed
    t, u = Split <axis = 2> (x)  y = Mul (t, u)
[slice of hidden] packed
    end = Constant <value_ints = [4]> ()  t = Slice (x, zero, end, two)  y = Exp (t)
[slice of seq] not one axis for each
    t = Slice (x, zero, one, one)  y = Add (x, t)
[reversed twice along seq] none of its inputs carries
    low = Constant <value_ints = [-9223372036854775808]> ()  f = Slice (x, last, low, one, last)  t = MatMul (f, W1)
    y = Slice (t, last, low, one, last)
[gathered backwards along seq and back] none of its inputs carries
    $count  l = Sub (n, scalar_one)  back = Sub (l, r)  f = Gather <axis = 1> (x, back)  t = MatMul (f, W1)
    y = Gather <axis = 1> (t, back)
[pad of hidden] packed
    pads = Constant <value_ints = [0, 0, 1, 0, 0, 1]> ()  t = Pad (x, pads)  y = Exp (t)
[pad of seq] works along
    pads = Constant <value_ints = [0, 1, 0, 0, -1, 0]> ()  t = Pad (x, pads)  y = Exp (t)
[transpose to sequence first] packed
    t = Transpose <perm = [1, 0, 2]> (x)  m = MatMul (t, W1)  e = Relu (m)  y = Transpose <perm = [1, 0, 2]> (e)
[transpose to channels first] packed
    t = Transpose <perm = [0, 2, 1]> (x)  e = Exp (t)  q = Transpose <perm = [0, 2, 1]> (e)  y = MatMul (q, W1)
[convolution of width 1] packed
    c = Transpose <perm = [0, 2, 1]> (x)  t = Conv (c, K1)  y = Transpose <perm = [0, 2, 1]> (t)
[convolution of width 3] reaches over several tokens
    m = Mul (x, column)  c = Transpose <perm = [0, 2, 1]> (m)  t = Conv <pads = [1, 1]> (c, K3)
    y = Transpose <perm = [0, 2, 1]> (t)
[matrix on the right] packed
    t = MatMul (x, W1)  y = Relu (t)
[matrix on the left] packed
    c = Transpose <perm = [0, 2, 1]> (x)  t = MatMul (W1, c)  e = Relu (t)  y = Transpose <perm = [0, 2, 1]> (e)
[stacked matrix of one] packed
    t = MatMul (x, M)  y = Relu (t)
[tokens times tokens] not one axis for each
    $scores  t = MatMul (x, xt)  w = Softmax (scores)  y = MatMul (w, x)
[product of heads within a token] packed
    heads = Constant <value_ints = [0, 0, 4, 2]> ()  q = Reshape (x, heads)  k = Transpose <perm = [0, 1, 3, 2]> (q)
    t = MatMul (q, k)  y = Exp (t)
[matrix of each sample] contracts tokens
    m = Mul (x, column)  mt = Transpose <perm = [0, 2, 1]> (m)  own = MatMul (mt, x)  t = MatMul (x, own)
    y = Relu (t)
[table by token] packed
    t = Gather (T, ids)  y = MatMul (t, W1)
[one place of the sequence] not one axis for each
    t = Gather <axis = 1> (x, zero)  y = Add (x, t)
[one place of hidden] packed
    t = Gather <axis = 2> (x, zero)  y = Mul (x, t)
[elements of hidden] packed
    big_ids = Unsqueeze (ids, last)  eight = Constant <value_int = 8> ()  i = Mod (big_ids, eight)
    t = GatherElements <axis = 2> (x, i)  y = Mul (x, t)
[position table] packed
    $positions  t = Add (x, p)  y = MatMul (t, W1)
[position table as last of four operands] packed
    $positions  e = Relu (x)  f = Abs (x)  t = Sum (x, e, f, p)  y = MatMul (t, W1)
[positions looked up for two readers] packed
    $count  i = Unsqueeze (r, zero)  p = Gather (T, i)  t = Add (x, p)  e = Mul (x, p)  m = MatMul (e, W1)
    y = Add (t, m)
[baked position table] either
    $positions  limit = Constant <value_ints = [9]> ()  short = Min (s, limit)  cut = Slice (NINE, zero, short, one)
    t = Add (x, cut)  y = MatMul (t, W1)
[running sum over seq] works along
    t = CumSum (x, scalar_one)  y = MatMul (t, W1)
[running sum over hidden] packed
    axis = Constant <value_int = 2> ()  t = CumSum (x, axis)  y = MatMul (t, W1)
[where with a token's truth] packed
    five = Constant <value_int = 30> ()  c3 = Unsqueeze (ids, last)  c = Less (c3, five)  e = Relu (x)
    t = Where (c, x, e)  y = MatMul (t, W1)
[where with a sample's truth] packed
    m = Mul (x, column)  f = ReduceSum (m, one)  null = Constant <value_float = 0.0> ()  c = Less (f, null)
    e = Relu (x)  t = Where (c, x, e)  y = MatMul (t, W1)
[expand of tokens] packed
    like = Constant <value_ints = [1, 1, 3, 8]> ()  u = Unsqueeze (x, two)  t = Expand (u, like)  e = Exp (t)
    y = ReduceSum (e, two)
[expand of samples] none of its inputs carries
    m = Mul (x, column)  f = ReduceSum (m, one)  sh = Shape (x)  t = Expand (f, sh)  y = Mul (t, x)
[unknown operator] not known to treat every token alone
    t = local.Twice (x)  y = MatMul (t, W1)
[unknown operator that pools] not known
    t = local.Pool (x, column)  a = Add (x, t)  y = MatMul (a, W1)
[normalisation over hidden] packed
    t = LayerNormalization <axis = -1> (x, V, V1)  y = MatMul (t, W1)
[batch normalisation of channels] packed
    c = Transpose <perm = [0, 2, 1]> (x)  a = Abs (V)  t = BatchNormalization (c, V, V1, V, a)
    y = Transpose <perm = [0, 2, 1]> (t)
[quantised] packed
    $levels  t = QuantizeLinear (x, step, point)  d = DequantizeLinear (t, step, point)  y = MatMul (d, W1)
[quantised and back] packed
    $levels  q = QuantizeLinear (x, step, point)  t = DequantizeLinear (q, step, point)  y = MatMul (t, W1)
[quantised by a scale for each channel] packed
    a = Abs (V)  t = QuantizeLinear <axis = 2> (x, a)  d = DequantizeLinear <axis = -1> (t, a)  y = MatMul (d, W1)
[einsum with a matrix] packed
    t = Einsum <equation = "bsh,hk->bsk"> (x, W1)  y = Relu (t)
[einsum over seq] not one axis for each
    m = Mul (x, column)  t = Einsum <equation = "bsh,bsk->bhk"> (m, x)  y = MatMul (x, t)
[einsum to sequence first] either
    t = Einsum <equation = "bsh,hk->sbk"> (x, W1)  e = Relu (t)  y = Transpose <perm = [1, 0, 2]> (e)
[one hot] packed
    depth = Constant <value_int = 64> ()  values = Constant <value_floats = [0.0, 1.0]> ()
    t = OneHot (ids, depth, values)  y = MatMul (t, T)
[largest of hidden] packed
    k = Constant <value_ints = [3]> ()  t, i = TopK <axis = 2> (x, k)  y = Exp (t)
[index of the largest of hidden] packed
    i = ArgMax <axis = 2> (x)  t = Cast <to = 1> (i)  y = Mul (x, t)
[clip] packed
    null = Constant <value_float = 0.0> ()  t = Clip (x, null)  y = MatMul (t, W1)
[identity in training] packed
    t = Dropout (x)  y = MatMul (t, W1)
[squeeze without axes] either
    o = ReduceSum (x, last)  sq = Squeeze (o)  u = Unsqueeze (sq, last)  t = Mul (u, x)  y = MatMul (t, W1)
[unpacked values reshaped to another place] either
    $extents  c = CumSum (x, scalar_one)  pair = Constant <value_ints = [4, 2]> ()
    to = Concat <axis = 0> (b, one, s, pair)  t = Reshape (c, to)  e = Exp (t)
    r = ReduceSum <keepdims = 0> (e, one)  back = Constant <value_ints = [0, 0, 8]> ()  f = Reshape (r, back)
    y = MatMul (f, W1)
[branch that reads tokens] none of its inputs carries
    n = ReduceMax <keepdims = 0> (mask)  c = Cast <to = 9> (n)
    t = If (c) <then_branch = g1 () => (float[d0, d1, d2] a) { a = Relu (x) },
    else_branch = g2 () => (float[d0, d1, d2] o) { o = Neg (x) }>
    y = Abs (t)
[attention of heads] not one axis for each
    $heads  ht = Transpose <perm = [0, 1, 3, 2]> (h)  t = MatMul (h, ht)  key = Unsqueeze (keep, one)
    key4 = Unsqueeze (key, one)  on = Constant <value_float = 1.0> ()  off = Constant <value_float = -1e9> ()
    d = Sub (on, key4)  bias = Mul (d, off)  sc = Add (t, bias)  w = Softmax (sc)  c = MatMul (w, h)
    ct = Transpose <perm = [0, 2, 1, 3]> (c)  back = Constant <value_ints = [0, 0, 8]> ()  m = Reshape (ct, back)
    y = MatMul (m, W1)
"""
FUNCTIONS = """
<domain: "local", opset_import: ["" : 17]> Twice (a) => (t) { t = Add (a, a) }
<domain: "local", opset_import: ["" : 17]> Pool (a, c) => (t) {
    m = Mul (a, c)  axis = Constant <value_ints = [1]> ()  t = ReduceSum <keepdims = 1> (m, axis)
}
"""


def read_rows():
    rows = []
    for row in ROWS.strip().split("\n["):
        first, lines = row.split("\n", 1)
        name, verdict = first.strip("[").split("] ")
        while "$" in lines:
            lines = re.sub(r"\$(\w+)", lambda match: SHARED[match[1]], lines)
        rows.append(pytest.param(lines, verdict, id=name))
    return rows


def build(body):
    return around(body, functions=FUNCTIONS if "local." in body else "")


@pytest.mark.parametrize(("body", "verdict"), read_rows())
def test_an_operator_runs_packed_only_where_it_treats_every_token_alone(body, verdict):
    reason = why_unpacked(build(body), "t")
    if verdict == "packed":
        assert reason is None
    elif verdict != "either":
        assert reason is not None
        assert verdict in reason


@pytest.mark.parametrize(("body", "verdict"), read_rows())
def test_each_sample_gets_its_own_numbers_in_declared_shapes(body, verdict):
    model, batch = build(body), samples()
    assert_each_is_right(run_declared(packed(model), batch), model, batch)


@pytest.mark.parametrize(("body", "verdict"), read_rows())
def test_each_sample_gets_its_own_numbers_on_real_tokens_alone(body, verdict):
    model, batch = build(body), samples()
    assert_each_is_right(run_ragged(model, batch), model, batch)


_FLAT = "rows = Constant <value_ints = [-1, 8]> ()  f = Reshape (x, rows)"
#: Why ``t`` is no row a token, although its shape does not show it.
REASONS = {
    "it may be in training mode": "h = Constant <value_float = 0.5> ()  t = Dropout (x, h, yes)",
    "it is in training mode": """c = Transpose <perm = [0, 2, 1]> (x)  a = Abs (V)
        t = BatchNormalization <training_mode = 1> (c, V, V1, V, a)""",
    "'own' is no constant matrix": f"{_FLAT}  ft = Transpose (f)  own = MatMul (ft, f)  t = Gemm (f, own)",
    "it does not add the last axis": """depth = Constant <value_int = 64> ()
        ends = Constant <value_floats = [0.0, 1.0]> ()  t = OneHot <axis = 1> (ids, depth, ends)""",
    "its axis is not a constant": "ax = ReduceMax <keepdims = 0> (mask)  t = CumSum (x, ax)",
}


@pytest.mark.parametrize("reason", REASONS)
def test_an_operator_that_is_no_row_a_token_says_why(reason):
    model = around(f"{REASONS[reason]}  y = Exp (t)")
    model.graph.initializer.append(make_tensor("yes", TensorProto.BOOL, [], [True]))
    assert reason in str(why_unpacked(model, "t"))


def test_levels_of_a_scale_that_is_measured_are_those_of_the_whole_run():
    body = """
        a = Abs (x)  m = ReduceMax <keepdims = 0> (a)  c = Constant <value_float = 100.0> ()  step = Div (m, c)
        t = QuantizeLinear (x, step)  d = DequantizeLinear (t, step)  y = MatMul (d, W1)
    """
    assert "'step' depends on the inputs" in why_unpacked(build(body), "t")
