"""Which values an input takes is read off the graph: tables, lengths, masks; a name is the last resort."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from poprt.sample_data import InputInfo, model_inputs, random_array, sample_feeds
from poprt.verify import verify

Array = NDArray[Any]

FLOATS = np.ones((60, 4), np.float32)
BYTES = np.ones((60, 4), np.uint8)


def model_of(graph: str, functions: str = "", **weights: Array) -> onnx.ModelProto:
    """A model in onnx's text form; ``weights`` are its larger initializers."""
    opsets = '"" : 17, "com.microsoft" : 1, "local" : 1, "ai.x" : 1'
    model = parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]>\n{graph}\n{functions}")
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    return model


def input_of(model: onnx.ModelProto, name: str = "a") -> InputInfo:
    return next(info for info in model_inputs(model) if info.name == name)


def fed(model: onnx.ModelProto, **sizes: int) -> dict[str, Array]:
    infos = model_inputs(model)
    return sample_feeds(infos, {info.name: info.concrete(sizes) for info in infos}, np.random.default_rng(0))


QUANTISED: dict[str, Array] = {"w": BYTES, "s": np.array(0.1, np.float32), "z": np.array(1, np.uint8)}
TABLES: dict[str, tuple[str, dict[str, Array]]] = {
    "float": ("y = Gather (w, a)", {"w": FLOATS}),
    "quantised rows": ("r = Gather (w, a)  y = DequantizeLinear (r, s, z)", QUANTISED),
    "quantised table": ("d = DequantizeLinear (w, s, z)  y = Gather (d, a)", QUANTISED),
    "contrib quantised": ("d = com.microsoft.DequantizeLinear (w, s, z)  y = Gather (d, a)", QUANTISED),
    "cast": ("d = Cast <to = 1> (w)  i = Identity (d)  y = Gather (i, a)", {"w": FLOATS.astype(np.float16)}),
    "turned": ("d = Transpose <perm = [1, 0]> (w)  y = Gather (d, a)", {"w": FLOATS.T.copy()}),
    "turned, along its columns": ("y = Gather <axis = 1> (w, a)", {"w": FLOATS.T.copy()}),
    "joined": ("d = Concat <axis = 0> (w, v)  y = Gather (d, a)", {"w": FLOATS[:50], "v": FLOATS[:10]}),
    "scaled": ("d = Mul (w, s)  y = Gather (d, a)", {"w": FLOATS, "s": np.array(2, np.float32)}),
    "in its own shape": ("d = Squeeze (w, x)  y = Gather (d, a)", {"w": FLOATS[None], "x": np.array([0])}),
    "elements": ("y = GatherElements (w, a)", {"w": FLOATS}),
    "by coordinates": ("i = Unsqueeze (a, x)  y = GatherND (w, i)", {"w": FLOATS, "x": np.array([-1])}),
    "blocks of 4 bits": (
        "y = com.microsoft.GatherBlockQuantized <quantize_axis = 1, block_size = 16> (w, a, s)",
        {"w": np.zeros((60, 8), np.uint8), "s": np.ones((60, 1), np.float32)},
    ),
    "one-hot": ("y = OneHot (a, n, v)", {"n": np.array(60), "v": np.array([0, 1], np.float32)}),
    "one-hot by comparison": (
        "u = Unsqueeze (a, x)  c = Equal (u, n)  f = Cast <to = 1> (c)  y = MatMul (f, w)",
        {"n": np.arange(60)[None, None], "w": FLOATS, "x": np.array([-1])},
    ),
    "ids by way of float": ("f = Cast <to = 1> (a)  i = Cast <to = 7> (f)  y = Gather (w, i)", {"w": FLOATS}),
    "ids reshaped and cut": (
        "f = Reshape (a, x)  c = Clip (f, lo, hi)  u = Where (k, c, lo)  y = Gather (w, u)",
        {"w": FLOATS, "x": np.array([-1]), "lo": np.array(0), "hi": np.array(1000), "k": np.array(True)},
    ),
    "smallest of two": ("p = Gather (w, a)  q = Gather (v, a)  y = Add (p, q)", {"w": FLOATS, "v": np.ones((90, 4))}),
    "a mask as well": ("y = Gather (w, a)  n = Equal (a, zero)  m = Not (n)", {"w": FLOATS, "zero": np.array(0)}),
}


@pytest.mark.parametrize("case", TABLES)
def test_ids_are_followed_to_their_table(case: str) -> None:
    body, weights = TABLES[case]
    info = input_of(model_of(f"g (int64[B,S] a) => (float y) {{ {body} }}", **weights))
    assert (info.kind, info.low, info.rows) == ("ids", 0, 60)
    assert "60 " in info.reason


@pytest.mark.parametrize(
    ("body", "low", "rows"),
    [
        ("i = Add (a, two)  y = Gather (w, i)", 0, 58),
        ("i = Sub (a, two)  y = Gather (w, i)", 2, 62),
        ("i = Mul (a, two)  y = Gather (w, i)", 0, 30),
        ("t = Mul (a, two)  i = Add (t, two)  y = Gather (w, i)", 0, 29),
        ("i = Mod (a, n)  y = Gather (w, i)", 0, 60),
        ("c = Clip (a, m, two)  i = Add (c, two)  y = Gather (w, i)", -2, 58),
        ("i = Add (a, columns)  y = Gather (w, i)", 0, 20),
    ],
)
def test_what_is_added_to_an_index_moves_its_bounds(body: str, low: int, rows: int) -> None:
    weights = {"two": np.array(2), "m": np.array(-2), "n": np.array(60), "columns": np.array([0, 20, 40])}
    info = input_of(model_of(f"g (int64[B,3] a) => (float y) {{ {body} }}", w=FLOATS, **weights))
    assert (info.kind, info.low, info.rows) == ("ids", low, rows)
    values = random_array(info, (50, 3), np.random.default_rng(0))
    assert low <= values.min() < low + 10
    assert rows - 3 < values.max() + 1 <= rows


def test_positions_count_from_the_lowest_value_to_the_last_row() -> None:
    model = model_of("g (int64[B,S] a) => (float y) { i = Sub (a, n)  y = Gather (w, i) }", w=FLOATS, n=np.array(3))
    model.graph.input[0].name = model.graph.node[0].input[0] = "position_ids"
    info = input_of(model, "position_ids")
    values = random_array(info, (2, 62), np.random.default_rng(0))
    assert info.kind == "positions"
    np.testing.assert_array_equal(values[1], 3 + np.arange(62) % 60)


def test_the_inputs_of_a_fused_embedding_have_the_limits_of_its_tables() -> None:
    model = model_of(
        """g (int32[B,S] ids, int32[B,S] kinds, int32[B,S] real, int32[B,S] places) => (float[B,S,4] y) {
            y, i = com.microsoft.EmbedLayerNormalization (ids, kinds, word, position, kind, one, one, real, places)
        }""",
        word=FLOATS,
        position=FLOATS[:20],
        kind=FLOATS[:2],
        one=np.ones(4, np.float32),
    )
    assert {info.name: (info.kind, info.rows) for info in model_inputs(model)} == {
        "ids": ("ids", 60),
        "kinds": ("ids", 2),
        "real": ("mask", 0),
        "places": ("ids", 20),
    }
    feeds = fed(model)
    np.testing.assert_array_equal(feeds["real"][0], 1)
    assert verify(model, model).passed


IN_OTHER_GRAPHS = {
    "a branch": "y = If (c) <then_branch = t () => (float p) { p = Gather (w, a) }, "
    "else_branch = e () => (float q) { q = Gather (w, a) }>",
    "behind a branch": "i = If (c) <then_branch = t () => (int64 p) { p = Identity (a) }, "
    "else_branch = e () => (int64 q) { q = Neg (a) }>  y = Gather (w, i)",
    "a loop": "y = Loop (n, c, a) <body = b (int64 k, bool go, int64 round) => (bool on, int64 next, float r) "
    "{ on = Identity (go)  next = Identity (round)  r = Gather (w, round) }>",
    "a function": "y = local.look (w, a)",
    "behind a function": "i = local.same (a)  y = Gather (w, i)",
    "a function in a function": "y = local.deep (w, a)",
}
FUNCTIONS = """
<opset_import: ["" : 17], domain: "local"> look (t, i) => (r) { c = Cast <to = 7> (i)  r = Gather (t, c) }
<opset_import: ["" : 17], domain: "local"> same (i) => (r) { r = Identity (i) }
<opset_import: ["" : 17, "local" : 1], domain: "local"> deep (t, i) => (r) { j = local.same (i)  r = local.look (t, j) }
"""


@pytest.mark.parametrize("case", IN_OTHER_GRAPHS)
def test_branches_loops_and_functions_are_followed(case: str) -> None:
    graph = f"g (int64[B,S] a, bool c) => (float y) {{ {IN_OTHER_GRAPHS[case]} }}"
    info = input_of(model_of(graph, FUNCTIONS, w=FLOATS, n=np.array(3)))
    assert (info.kind, info.rows) == ("ids", 60)


def test_a_function_that_calls_itself_is_looked_at_once() -> None:
    functions = '<opset_import: ["local" : 1], domain: "local"> f (i) => (r) { r = local.f (i) }'
    assert input_of(model_of("g (int64[B,S] a) => (float y) { y = local.f (a) }", functions)).kind == "mask"


MASKS = {
    "a condition": "y = Where (m, x, zero)",
    "subtracted from 1": "f = Cast <to = 1> (a)  i = Sub (one, f)  p = Mul (i, low)  y = Add (x, p)",
    "multiplied": "f = Cast <to = 1> (a)  y = Mul (x, f)",
    "compared": "c = Equal (a, zero_id)  y = Where (c, x, zero)",
    "added up": "f = Cast <to = 1> (a)  n = ReduceSum (f)  y = Div (x, n)",
    "counted": "n = CumSum (a, one_id)  p = Gather (w, n)  y = Add (x, p)",
}
NUMBERS: dict[str, Array] = {
    "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "low": np.array(-1e4, np.float32),
    "zero_id": np.array(0),
    "one_id": np.array(1),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_is_known_by_what_is_done_with_it(case: str) -> None:
    cast = "m = Cast <to = 9> (a)" if case == "a condition" else ""
    info = input_of(model_of(f"g (int64[B,S] a, float[B,S] x) => (float y) {{ {cast} {MASKS[case]} }}", **NUMBERS))
    assert info.kind == "mask"
    assert "'" in info.reason  # it names a node
    values = random_array(info, (9, 20), np.random.default_rng(0))
    assert set(np.unique(values)) == {0, 1}
    assert (np.diff(values) <= 0).all()
    assert values[0].all()


def test_a_float_mask_of_another_name_is_known_by_the_scores_that_it_hides() -> None:
    body = "i = Sub (one, a)  p = Mul (i, low)  y = Add (x, p)"
    assert input_of(model_of(f"g (float[B,S] a, float[B,S] x) => (float y) {{ {body} }}", **NUMBERS)).kind == "mask"


def test_the_position_table_of_a_mask_is_not_that_of_the_ids() -> None:
    model = model_of(
        """g (int64[B,S] a, int64[B,S] b) => (float y) { e = Gather (w, a)  n = Equal (a, one)  r = Not (n)
            c = Cast <to = 7> (r)  s = CumSum (c, one)  m = Mul (s, c)  i = Add (m, one)  p = Gather (v, i)
            t = CumSum (b, one)  u = Mul (t, b)  j = Add (u, one)  q = Gather (v, j)  h = Add (e, p)  y = Add (h, q)
        }""",
        w=FLOATS,
        v=FLOATS[:20],
        one=np.array(1),
    )
    assert {info.name: (info.kind, info.rows) for info in model_inputs(model)} == {"a": ("ids", 60), "b": ("mask", 0)}


def test_masks_and_lengths_of_one_run_agree() -> None:
    model = model_of(
        """g (int64[B,T] ids, int64[B] n, int64[B,T] real) => (float y) { e = Gather (w, ids)  s = Shape (ids)
            t = Gather (s, one)  r = Range (zero, t, one)  c = Unsqueeze (n, axis)  k = Less (r, c)
            f = Cast <to = 1> (k)  g = Cast <to = 1> (real)  h = Mul (f, g)  y = Mul (h, h) }""",
        w=FLOATS,
        zero=np.array(0),
        one=np.array(1),
        axis=np.array([1]),
    )
    feeds = fed(model, B=5, T=11)
    assert {info.name: info.kind for info in model_inputs(model)} == {"ids": "ids", "n": "lengths", "real": "mask"}
    assert feeds["n"][0] == 11
    assert (feeds["n"] >= 1).all()
    np.testing.assert_array_equal(feeds["real"].sum(axis=1), feeds["n"])


@pytest.mark.parametrize("name", ["lengths", "input_lengths", "x_lens", "seq_len"])
def test_a_length_by_name_is_within_the_sequence(name: str) -> None:
    model = model_of(
        f"g (int64[B,T] ids, int64[B] {name}) => (float y) {{ e = Gather (w, ids)  y = ai.x.F (e, {name}) }}"
    )
    assert input_of(model, name).reason == "by its name"
    assert fed(model, B=4, T=7)[name].max() == 7


def test_the_lengths_of_a_recurrence_are_within_its_sequence() -> None:
    weights = {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
    text = "g (float[T,2,3] x, int32[2] n) => (float y) { y = LSTM <hidden_size = 2> (x, w, r, , n) }"
    model = model_of(text, **weights)
    assert input_of(model, "n").kind == "lengths"
    assert verify(model, model).passed


def test_a_number_that_is_compared_with_constants_is_one_of_them() -> None:
    text = """g (float[1,8] x, int64 sr) => (float y) { c = Equal (sr, high)
        y = If (c) <then_branch = t () => (float p) { p = Relu (x) },
        else_branch = e () => (float q) { k = Equal (sr, low)  f = Cast <to = 1> (k)  q = Mul (x, f) }> }"""
    info = input_of(model_of(text, high=np.array(16000), low=np.array(8000)), "sr")
    assert (info.kind, info.values) == ("setting", (16000, 8000))
    assert random_array(info, (), np.random.default_rng(0)) == 16000


def test_distances_are_within_what_their_buckets_clip() -> None:
    body = "c = Clip (a, low, high)  i = Add (c, high)  y = Gather (w, i)"
    info = input_of(
        model_of(f"g (int64[S,S] a) => (float y) {{ {body} }}", w=FLOATS[:9], low=np.array(-4), high=np.array(4))
    )
    assert (info.kind, info.low, info.rows) == ("ids", -4, 5)


def test_distances_whose_bucket_is_computed_are_within_its_table() -> None:
    body = """n = Abs (a)  s = Less (n, few)  f = Cast <to = 1> (n)  l = Log (f)  r = Cast <to = 7> (l)
        t = Add (r, few)  k = Min (t, last)  b = Where (s, n, k)  y = Gather (w, b)"""
    model = model_of(f"g (int64[S,S] a) => (float y) {{ {body} }}", w=FLOATS[:9], few=np.array(4), last=np.array(8))
    info = input_of(model)
    assert (info.kind, info.rows) == ("ids", 9)


def test_an_index_into_hidden_states_is_within_the_sequence() -> None:
    body = "e = Gather (w, ids)  h = Relu (e)  y = Gather <axis = 1> (h, a)"
    model = model_of(f"g (int64[B,S] ids, int64[N] a) => (float y) {{ {body} }}", w=FLOATS)
    assert input_of(model).kind == "places"
    assert fed(model, S=5)["a"].max() < 5
    assert verify(model, model).passed


def test_factors_that_set_a_length_are_positive() -> None:
    body = "d = Div (x, a)  c = Ceil (d)  y = Relu (c)"
    info = input_of(model_of(f"g (float[B,S] x, float[1] a) => (float y) {{ {body} }}"))
    assert info.kind == "factors"
    assert (random_array(info, (50,), np.random.default_rng(0)) >= 0.5).all()


@pytest.mark.parametrize("body", ["f = Cast <to = 1> (a)  y = Div (f, n)", "y = DequantizeLinear (a, n)"])
def test_a_picture_of_bytes_has_all_their_values(body: str) -> None:
    info = input_of(model_of(f"g (uint8[1,16,16,3] a) => (float y) {{ {body} }}", n=np.array(255, np.float32)))
    values = random_array(info, (1, 16, 16, 3), np.random.default_rng(0))
    assert info.kind == "bytes"
    assert len(np.unique(values)) > 128


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("input_ids", "ids", "by its name; no table was found"),
        ("prefix", "ids", "by its name; no table was found"),
        ("attention_mask", "mask", "by its name"),
        ("sr", "setting", "by its name a sample rate"),
        ("position_ids", "positions", "by its name; no table was found"),
        ("thing", "mask", "nothing is known of it"),
    ],
)
def test_a_name_is_the_last_resort(name: str, kind: str, reason: str) -> None:
    info = input_of(model_of(f"g (int64[B,S] {name}) => (float y) {{ y = ai.x.F ({name}) }}"), name)
    assert (info.kind, info.reason) == (kind, reason)


def test_a_table_tells_more_than_a_name() -> None:
    model = model_of("g (int64[B,S] mask_ids) => (float y) { y = Gather (w, mask_ids) }", w=FLOATS)
    assert input_of(model, "mask_ids").rows == 60


def test_an_input_says_what_it_is_fed_and_why() -> None:
    body = "e = Gather (w, a)  y = ai.x.F (e, thing)"
    model = model_of(f"g (int64[B,S] a, int64[B,S] thing) => (float y) {{ {body} }}", w=FLOATS)
    assert [str(info) for info in model_inputs(model)] == [
        "a: ids 0 to 59; 60 rows of 'w' (Gather 'e')",
        "thing: 1, then 0 to the end; nothing is known of it",
    ]


@pytest.mark.parametrize("axis", [7, [1], "x", 0.5])
def test_an_attribute_that_makes_no_sense_is_left_to_the_reader_of_the_model(axis: Any) -> None:
    model = model_of("g (int64[B,S] input_ids) => (float y) { y = Gather (w, input_ids) }", w=FLOATS)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("axis", axis))
    assert input_of(model, "input_ids").kind in ("ids", "places")
