"""Graphs of a batch of 4 take any number of rows, each answered as in the graph of 4; or they say why not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes.batch.open_batch import OpenBatch
from passes.shapes.infer_model import infer_shapes
from poprt.engine.plain import plain_session
from tests.passes.rewrites import parse

B = 4
RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.normal(size=(8, 6)).astype(np.float32),
    "one": np.ones((1, 6, 8), np.float32) / 3,
    "same": np.tile(RNG.normal(size=(1, 6, 8)).astype(np.float32), (B, 1, 1)),
    "own": RNG.normal(size=(B, 6, 8)).astype(np.float32),
    "token": np.tile(RNG.normal(size=(1, 1, 8)).astype(np.float32), (B, 1, 1)),
    "scale": RNG.normal(size=8).astype(np.float32),
    "table": RNG.normal(size=(9, 8)).astype(np.float32),
    "kernel": RNG.normal(size=(5, 6, 3)).astype(np.float32),
    "channels": RNG.uniform(1, 2, size=6).astype(np.float32),
    "zero": np.float32(0),
    "recurrence_w": RNG.normal(size=(1, 12, 8)).astype(np.float32),
    "recurrence_r": RNG.normal(size=(1, 12, 3)).astype(np.float32),
    "gru_w": RNG.normal(size=(1, 9, 8)).astype(np.float32),
    "gru_r": RNG.normal(size=(1, 9, 3)).astype(np.float32),
    "state": np.zeros((1, B, 3), np.float32),
    "ids": np.array([[1, 0], [2, 5]]),
    "doubled": np.array([1, 2, 1], np.float32),
    "batch_doubled": np.array([2, 1, 1], np.float32),
    "same_scale": np.full((B, 1, 8), 1.5, np.float32),
    "batch_3": np.array([B, 3]),
    "four": np.array([B]),
    "signed": np.array([0.0, -0.0, 0.0, 0.0], np.float32).reshape(B, 1, 1),
    "mask": np.tril(np.ones((1, 1, 6, 6))).astype(bool),
    **{f"i{n}": np.array([n]) for n in range(3)},
    "last": np.array([-1]),
    "far": np.array([2**31 - 1]),
    "minus": np.array([-1]),
    "heads": np.array([B, 6, 2, 4]),
    "flat": np.array([B * 6, 8]),
    "by_head": np.array([B * 2, 6, 4]),
    "apart": np.array([B, 2, 6, 4]),
    "all": np.array([-1]),
    "wide": np.array([B, 6, 6, 8]),
    "twice": np.array([1, 2, 1]),
    "batch_twice": np.array([2, 1, 1]),
    "pads": np.array([0, 1, 0, 0, 0, 2]),
    "batch_pads": np.array([1, 0, 0, 0, 0, 0]),
    "halves": np.array([2, 4]),
    "k": np.array([2]),
    "depth": np.array(5),
    "bits": np.array([0.0, 1.0], np.float32),
}


def fixed(body: str, opset: int = 17) -> onnx.ModelProto:
    """A model of [4, 6, 8] floats and [4, 6] whole numbers to y."""
    model = parse(f"m (float[{B}, 6, 8] x, int64[{B}, 6] n) => (float y) {{ {body} }}", opset=opset)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in CONSTANTS.items() if k in read)
    if "n" not in read:
        del model.graph.input[1]
    if "x" not in read:
        del model.graph.input[0]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    result = plain_session(model.SerializeToString(), optimise=False).run(None, feeds(model, B))[0]
    kind = onnx.helper.np_dtype_to_tensor_dtype(result.dtype)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", kind, result.shape))
    return infer_shapes(model)


def feeds(model: onnx.ModelProto, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    whole = {"x": rng.normal(size=(16, 6, 8)).astype(np.float32), "n": rng.integers(0, 5, (16, 6))}
    return {item.name: whole[item.name][:rows] for item in model.graph.input}


OPENED = {
    "elementwise": "y = Add (x, one)",
    "the same for all samples": "y = Mul (x, same)",
    "unary": "y = Erf (x)",
    "a scalar's bounds": "y = Clip (x, zero)",
    "product": "y = MatMul (x, w)",
    "product of samples": "t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (x, t)",
    "a vector": "y = MatMul (x, scale)",
    "weights on the left": "t = Transpose <perm = [1, 2, 0]> (x)  p = MatMul (w, one)"
    "  s = ReduceSum <keepdims = 0> (p, i0)  m = MatMul (s, t)  y = Transpose <perm = [2, 0, 1]> (m)",
    "heads": "r = Reshape (x, heads)  y = Transpose <perm = [0, 2, 1, 3]> (r)",
    "flat rows": "f = Reshape (x, flat)  g = Gemm (f, w)  s = Constant <value_ints = [4, 6, 6]> ()  y = Reshape (g, s)",
    "heads in the batch": "r = Reshape (x, heads)  t = Transpose <perm = [0, 2, 1, 3]> (r)  h = Reshape (t, by_head)"
    "  u = Transpose <perm = [0, 2, 1]> (h)  s = MatMul (h, u)  p = Softmax <axis = -1> (s)  c = MatMul (p, h)"
    "  y = Reshape (c, apart)",
    "flatten": "f = Flatten <axis = 1> (x)  y = Relu (f)",
    "time first": "t = Transpose <perm = [1, 0, 2]> (x)  r = Relu (t)  y = Transpose <perm = [1, 0, 2]> (r)",
    "normalisation": "y = LayerNormalization <axis = -1> (x, scale)",
    "softmax": "y = Softmax <axis = 1> (x)",
    "batch norm": "y = BatchNormalization (x, channels, channels, channels, channels)",
    "convolution": "c = Conv <pads = [1, 1]> (x, kernel)  y = GlobalAveragePool (c)",
    "resize": "y = Resize <mode = \"nearest\"> (x, , doubled)",
    "reduction": "y = ReduceMean <axes = [1], keepdims = 0> (x)",
    "norm of a sample": "r = ReduceL2 <axes = [1, 2], keepdims = 1> (x)  y = Div (x, r)",
    "places": "a = ArgMax <axis = 1, keepdims = 0> (x)  y = Cast <to = 1> (a)",
    "best": "y, j = TopK <axis = 2> (x, k)",
    "running sum": "c = CumSum (x, i1)  y = Relu (c)",
    "first token": "g = Gather <axis = 1> (x, i0)  y = Squeeze (g, i1)",
    "several places": "y = Gather <axis = 1> (x, ids)",
    "table": "y = Gather (table, n)",
    "one hot": "y = OneHot (n, depth, bits)",
    "a cut": "y = Slice (x, i1, far, i1)",
    "the last places": "y = Slice (x, last, far, i2)",
    "halves": "a, b = Split <axis = 1> (x, halves)  y = Relu (b)",
    "a token of the model's own": "y = Concat <axis = 1> (token, x)",
    "side by side": "y = Concat <axis = 2> (x, x)",
    "padding": "y = Pad (x, pads)",
    "repeats": "y = Tile (x, twice)",
    "to all places": "u = Unsqueeze (x, i1)  y = Expand (u, wide)",
    "einsum": "y = Einsum <equation = \"bsh,hk->bks\"> (x, w)",
    "quantised": "q = QuantizeLinear (x, quarter)  y = DequantizeLinear (q, quarter)",
    "lstm": "t = Transpose <perm = [1, 0, 2]> (x)  a, y, c = LSTM <hidden_size = 3> (t, recurrence_w, recurrence_r)",
    "lstm with a state": "t = Transpose <perm = [1, 0, 2]> (x)"
    "  a, y, c = LSTM <hidden_size = 3> (t, recurrence_w, recurrence_r, , , state, state)",
    "gru": "t = Transpose <perm = [1, 0, 2]> (x)  a, y = GRU <hidden_size = 3> (t, gru_w, gru_r)",
    "flat from the state of a recurrence": "t = Transpose <perm = [1, 0, 2]> (x)"
    "  a, h, c = LSTM <hidden_size = 3> (t, recurrence_w, recurrence_r)  g = Flatten (h)  y = Reshape (g, batch_3)",
    "a scale for each row, all alike": "y = LayerNormalization <axis = -1> (x, same_scale)",
    "the length alone": "s = Shape <start = 1, end = 2> (x)  c = Cast <to = 1> (s)  y = Div (x, c)",
    "indices of a sample": "i = ArgMax <axis = 1, keepdims = 0> (x)  j = Unsqueeze (i, i2)"
    "  y = GatherND <batch_dims = 1> (x, j)",
}  # fmt: skip
CONSTANTS["quarter"] = np.float32(0.25)


@pytest.mark.parametrize("body", OPENED.values(), ids=OPENED)
def test_each_row_is_answered_as_in_a_batch_of_four(body: str) -> None:
    model = fixed(body)
    step = OpenBatch()
    opened = step.run(onnx.ModelProto.FromString(model.SerializeToString()))
    assert step.refusal is None
    onnx.checker.check_model(opened, full_check=True)
    before = plain_session(model.SerializeToString(), optimise=False)
    after = plain_session(opened.SerializeToString(), optimise=False)
    axis = step.axes["y"]
    for rows in (1, 3, 4, 9):
        whole = feeds(model, rows)
        got = after.run(None, whole)[0]
        assert got.shape[axis] == rows
        for row in range(rows):
            one = {name: np.concatenate([array[row : row + 1]] * B) for name, array in whole.items()}
            expected = np.take(before.run(None, one)[0], [0], axis=axis)
            np.testing.assert_allclose(np.take(got, [row], axis=axis), expected, rtol=1e-5, atol=1e-5)


HELD = {
    "over the batch": ("y = ReduceMean <axes = [0], keepdims = 1> (x)", "works along the samples of 'x'"),
    "over everything": ("m = ReduceMax (x)  y = Sub (x, m)", "reduces over all axes"),
    "a constant of each row": ("y = Add (x, own)", "'own', which differs from sample to sample"),
    "softmax over the batch": ("y = Softmax <axis = 0> (x)", "works along the samples of 'x'"),
    "one scale for all": ("q, s, z = DynamicQuantizeLinear (x)  y = DequantizeLinear (q, s, z)", "may look along"),
    "training": (
        "y, m, v = BatchNormalization <training_mode = 1> (x, channels, channels, channels, channels)",
        "takes the statistics of the batch",
    ),
    "one row of all": ("y = Reshape (x, all)", "holds 48 places a sample"),
    "places before samples": ("t = Transpose <perm = [1, 0, 2]> (x)  y = Reshape (t, flat)", "divides the samples"),
    "the size": ("s = Shape <end = 1> (x)  c = Cast <to = 1> (s)  y = Div (x, c)", "the size of the batch"),
    "the first sample": ("y = Gather <axis = 0> (x, i0)", "works along the samples of 'x'"),
    "samples by samples": (
        "t = Transpose <perm = [1, 0, 2]> (x)  u = Transpose <perm = [1, 2, 0]> (x)  y = MatMul (t, u)",
        "keep their samples in other axes",
    ),
    "repeated samples": ("y = Tile (x, batch_twice)", "repeats samples"),
    "more samples": ("y = Pad (x, batch_pads)", "works along the samples"),
    "between samples": ('y = Resize <mode = "nearest"> (x, , batch_doubled)', "size of the batch"),
    "behind each other": ("y = Concat <axis = 0> (x, x)", "behind samples"),
    "nothing of it": ("y = Identity (one)  z = Relu (x)", "the same whatever the batch is"),
    "flat result": ("y = Reshape (x, flat)", "holds 6 places a sample"),
    "zeros of both signs": ("y = Div (x, signed)", "differs from sample to sample"),
    "a label twice": (
        """p = ReduceMax <axes = [2], keepdims = 0> (x)  q = Slice (p, i0, four, i1)
           y = Einsum <equation = "bb->b"> (q)""",
        "mixes samples",
    ),
    "noise": ("r = RandomUniform <shape = [1, 6, 8]> ()  y = Add (x, r)", "draws numbers for the whole run"),
    "from the first axis on": ("f = Flatten <axis = -3> (x)  y = Relu (f)", "into one row"),
    "random": ("r = RandomNormalLike (x)  y = Add (x, r)", "draws numbers for the whole run"),
    "pooled places first": ("t = Transpose <perm = [1, 0, 2]> (x)  y = GlobalAveragePool (t)", "samples in axis 1"),
    "places of maxima": (
        "m, i = MaxPool <kernel_shape = [2]> (x)  y = Cast <to = 1> (i)",
        "count through the whole batch",
    ),
    "an ellipsis": ("""y = Einsum <equation = "...h,hk->...k"> (x, w)""", "does not name all axes"),
    "a constant of samples": (
        """y = Einsum <equation = "bsh,bsh->bsh"> (x, own)""",
        "reads 'own', which does not depend on the batch",
    ),
    "samples as time": (
        "a, y, c = LSTM <hidden_size = 3> (x, recurrence_w, recurrence_r)",
        "does not read samples in axis 1 of 'x'",
    ),
    "samples as columns": (
        "f = Flatten (x)  t = Transpose <perm = [1, 0]> (f)  y = Gemm <transA = 1> (t, long)",
        "its rows are not samples",
    ),
    "a vector on the left": ("t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (scale, t)", "a vector on the left"),
    "sums over samples": ("t = Transpose <perm = [1, 2, 0]> (x)  y = MatMul (t, few)", "sums along the batch of 't'"),
    "a square and its transpose, joined": (
        "a = Slice (x, i0, four, i1)  b = Transpose <perm = [1, 0, 2]> (a)  y = Concat <axis = 2> (a, b)",
        "its operands keep their samples in other axes",
    ),
    "a square and its transpose, added": (
        "a = Slice (x, i0, four, i1)  b = Transpose <perm = [1, 0, 2]> (a)  y = Add (a, b)",
        "its operands keep their samples in other axes",
    ),
    "constant indices of each row": (
        "y = GatherElements <axis = 2> (x, first_of_each)",
        "data and indices keep their samples in other axes",
    ),
    "indices of samples": (
        "a = Slice (x, i0, four, i2)  i = ArgMax <axis = 2, keepdims = 1> (a)  y = GatherND (x, i)",
        "its indices name samples",
    ),
    "kinds between": ("y = OneHot <axis = 1> (n, depth, bits)", "it does not add the last axis"),
    "all axes of one": ("g = Gather <axis = 1> (x, i0)  y = Squeeze (g)", "or left out: that may take the batch away"),
    "dropout in training": ("y = Dropout (x, quarter, yes)", "it may be in training mode"),
    "flat, places first": ("t = Transpose <perm = [1, 0, 2]> (x)  y = Flatten <axis = 2> (t)", "divides the samples"),
}
CONSTANTS |= {
    "long": RNG.normal(size=(48, 3)).astype(np.float32),
    "few": RNG.normal(size=(B, 3)).astype(np.float32),
    "first_of_each": np.zeros((B, 6, 1), np.int64),
    "yes": np.array(True),
}


@pytest.mark.parametrize(("body", "reason"), HELD.values(), ids=HELD)
def test_a_graph_that_holds_its_batch_size_says_why_and_stays(body: str, reason: str) -> None:
    model = fixed(body)
    step = OpenBatch()
    opened = step.run(onnx.ModelProto.FromString(model.SerializeToString()))
    assert step.refusal is not None
    assert reason in str(step.refusal)
    assert step.axes == {}
    shapes = [[dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in opened.graph.input]
    assert all(shape[0] == B for shape in shapes)


def test_a_condition_inside_holds_the_batch_size() -> None:
    text = """m (float[4, 8] x, bool[4] c) => (float[4, 8] y) {
        z = Constant <value_int = 0> ()
        d = Gather (c, z)
        y = If (d) <then_branch = a () => (float[4, 8] o) { o = Neg (x) },
                    else_branch = b () => (float[4, 8] p) { p = Relu (x) }>
    }"""
    step = OpenBatch()
    step.run(parse(text))
    assert "works along the samples of 'c'" in str(step.refusal)


def test_a_branch_that_reads_samples_holds_the_batch_size() -> None:
    text = """m (float[4, 8] x) => (float[4, 8] y) <bool c = {1}> {
        y = If (c) <then_branch = a () => (float[4, 8] o) { o = Neg (x) },
                    else_branch = b () => (float[4, 8] p) { p = Relu (x) }>
    }"""
    step = OpenBatch()
    step.run(parse(text))
    assert "If 'y': holds a graph of its own" in str(step.refusal)


@pytest.mark.parametrize(
    ("inputs", "axes"),
    [
        ("float[4, 8] x, float[2, 4, 8] s", {"x": 0, "s": 1}),
        ("float[1, 8] x, float[1, 2, 8] s", {"x": 0, "s": 0}),
    ],
)
def test_a_state_has_its_batch_in_the_axis_of_that_extent(inputs: str, axes: dict[str, int]) -> None:
    rows = "t = ReduceSum <keepdims = 0> (s, i)" if axes["s"] == 1 else "t = Slice (s, z, i, i)  u = Squeeze (t, i)"
    first = "t" if axes["s"] == 1 else "u"
    model = parse(f"m ({inputs}) => (float[o, 8] y) {{ {rows}  y = Add (x, {first}) }}")
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4 if axes["s"] == 1 else 1
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "z"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([axes["s"] ^ 1]), "i"))
    step = OpenBatch()
    opened = step.run(infer_shapes(model))
    assert step.refusal is None
    assert step.axes == {**axes, "y": 0}
    session = plain_session(opened.SerializeToString())
    x, s = np.ones((3, 8), np.float32), np.ones((2, 3, 8) if axes["s"] == 1 else (3, 2, 8), np.float32)
    assert session.run(None, {"x": x, "s": s})[0].shape == (3, 8)


def test_inputs_without_a_common_batch_hold_it() -> None:
    step = OpenBatch()
    step.run(parse("m (float[4, 8] x, float[8] s) => (float[4, 8] y) { y = Add (x, s) }"))
    assert "its inputs do not declare one batch size" in str(step.refusal)


ONE = {
    "a state's flat rows": (
        """m (float[1, 6, 8] x) => (float[1, 3] y) {
            t = Transpose <perm = [1, 0, 2]> (x)  a, h, c = LSTM <hidden_size = 3> (t, recurrence_w, recurrence_r)
            g = Flatten (h)  y = Softmax (g) }""",
        "works along the samples of 'g'",
    ),
    "a bias that is a row": (
        """m (float[1, 8] x) => (float[1, 3] y) {
            i = Constant <value_ints = [1]> ()  b = ReduceSum <keepdims = 0> (x, i)  y = Gemm (x, w3, b) }""",
        "'b' keeps its samples in another axis",
    ),
    "noise": (
        "m (float[1, 8] x) => (float[1, 8] y) { r = RandomUniform <shape = [1, 8]> ()  y = Add (x, r) }",
        "draws numbers for the whole run",
    ),
    "peepholes": (
        """m (float[1, 6, 8] x) => (float[1, 1, 3] h) {
            t = Transpose <perm = [1, 0, 2]> (x)  i = Constant <value_ints = [1, 2]> ()
            s = ReduceSum <keepdims = 1> (x, i)  n = Constant <value_ints = [1, 9]> ()  p = Expand (s, n)
            q = Reshape (p, n)
            a, h, c = LSTM <hidden_size = 3> (t, recurrence_w, recurrence_r, , , , , q) }""",
        "is told by 'q'",
    ),
}
CONSTANTS["w3"] = RNG.normal(size=(8, 3)).astype(np.float32)


@pytest.mark.parametrize(("text", "reason"), ONE.values(), ids=ONE)
def test_a_batch_of_one_is_not_taken_for_an_axis_of_one(text: str, reason: str) -> None:
    model = parse(text)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in CONSTANTS.items() if k in read)
    step = OpenBatch()
    step.run(infer_shapes(model))
    assert step.refusal is not None
    assert reason in str(step.refusal)


def test_a_flat_state_of_one_sample_is_opened_by_way_of_its_own_axis() -> None:
    model = parse("""m (float[1, 6, 8] x) => (float[1, 48] y) { f = Flatten <axis = -2> (x)  y = Relu (f) }""")
    step = OpenBatch()
    opened = step.run(infer_shapes(model))
    x = RNG.normal(size=(3, 6, 8)).astype(np.float32)
    got = plain_session(opened.SerializeToString(), optimise=False).run(None, {"x": x})[0]
    np.testing.assert_array_equal(got, np.maximum(x.reshape(3, 48), 0))


OLD_FORMS = {
    "scales of opset 10": ('y = Resize <mode = "nearest"> (x, doubled)', 10, True),
    "negative axes": ('y = Resize <axes = [-3, -1], mode = "nearest"> (x, , pair)', 18, True),
    "blocks of scales": (
        """q = QuantizeLinear <axis = 2, block_size = 4> (x, scales)
           y = DequantizeLinear <axis = 2, block_size = 4> (q, scales)""",
        21,
        False,
    ),
}
CONSTANTS["pair"] = np.array([1.0, 2.0], np.float32)
CONSTANTS["scales"] = np.ones((B, 6, 2), np.float32)


@pytest.mark.parametrize(("body", "opset", "opens"), OLD_FORMS.values(), ids=OLD_FORMS)
def test_forms_of_other_opsets(body: str, opset: int, opens: bool) -> None:
    model = fixed(body, opset)
    step = OpenBatch()
    opened = step.run(onnx.ModelProto.FromString(model.SerializeToString()))
    assert (step.refusal is None) == opens, step.refusal
    whole = feeds(model, 3 if opens else B)
    got = plain_session(opened.SerializeToString(), optimise=False).run(None, whole)[0]
    assert len(got) == len(whole["x"])


def test_what_no_rule_foresaw_is_a_refusal() -> None:
    model = parse("m (float[4, 8] x) => (float[4, 8] y) { y = Concat (x) }")
    step = OpenBatch()
    step.run(model)
    assert "is written in a way that no rule reads" in str(step.refusal)
