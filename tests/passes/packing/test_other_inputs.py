"""Inputs beside the tokens: a row a sample, and a value a run. Judged by numbers, each sample alone and unpadded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import PackingError
from passes.manager import PassManager
from passes.packing.insert_attention_mask import InsertAttentionMask
from passes.packing.packed_transformer import PackedTransformer
from passes.shapes.convert_opset import ConvertOpset
from poprt.compiler import Compiler
from poprt.engine.session import EngineSession
from tests.numerics import Arrays, random_samples, run
from tests.passes.packing.packs import COLUMNS, LENGTHS, MOST, PACK_ARGS, ROWS, TOLERANCE, metadata, pack
from tests.passes.rewrites import copy_of, ops, parse, shape_of

Array = np.ndarray[Any, Any]
#: The tokens of a sample, and what it has beside them.
Sample = tuple[Arrays, Arrays]

WEIGHTS = {
    "T": (64, 8),
    "W": (8, 8),
    "Q": (8, 8),
    "U": (4, 8),
    "J": (12, 2),
    "F": (16, 8),
    "G": (8, 8),
    "STYLES": (5, 8),
    "P": (1, 32, 8),
}


def encoder(inputs: str, before: str, after: str) -> onnx.ModelProto:
    """One attention over ``h`` [batch, seq, 8], which ``before`` makes of ``e``; ``after`` makes ``y`` of ``z``."""
    model = parse(
        f"""
        g (int64[batch, seq] ids, int64[batch, seq] mask, {inputs}) => (float y) {{
            e = Gather (T, ids)
            {before}
            q = MatMul (h, Q)
            kt = Transpose <perm = [0, 2, 1]> (h)
            raw = MatMul (q, kt)
            keep = Cast <to = 1> (mask)
            key = Unsqueeze (keep, one)
            off = Constant <value_float = -10000.0> ()
            on = Constant <value_float = 1.0> ()
            drop = Sub (on, key)
            bias = Mul (drop, off)
            scores = Add (raw, bias)
            w = Softmax (scores)
            mixed = MatMul (w, h)
            z = MatMul (mixed, W)
            {after}
        }}
        """
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        name: (rng.normal(size=shape) / 3).astype(np.float32) for name, shape in WEIGHTS.items()
    }
    constants |= {name: np.array(value) for name, value in {"zero": [0], "one": [1], "last": [-1], "ONE": 1}.items()}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in constants if name in read)
    return model


PLAIN = "h = Identity (e)"
FIRST = "first = Slice (z, zero, one, one)  pooled = Squeeze (first, one)"
ADDED = "v = MatMul (user, U)  row = Unsqueeze (v, one)  h = Add (e, row)"
EXPANDED = """v = MatMul (user, U)  row = Unsqueeze (v, one)  like = Shape (e)  all = Expand (row, like)
    both = Concat <axis = 2> (e, all)  h = MatMul (both, F)"""
TILED = """v = MatMul (user, U)  row = Unsqueeze (v, one)  size = Shape <start = 1, end = 2> (ids)
    times = Concat <axis = 0> (one, size, one)  all = Tile (row, times)
    both = Concat <axis = 2> (e, all)  h = MatMul (both, F)"""
TURNED = """v = MatMul (user, U)  row = Unsqueeze (v, zero)  et = Transpose <perm = [1, 0, 2]> (e)
    a = Add (et, row)  g = MatMul (a, G)  h = Transpose <perm = [1, 0, 2]> (g)"""
CHANNELS = """v = MatMul (user, U)  row = Unsqueeze (v, last)  et = Transpose <perm = [0, 2, 1]> (e)
    a = Add (et, row)  h = Transpose <perm = [0, 2, 1]> (a)"""

EACH, POOLED = "y = Identity (z)", f"{FIRST} y = Identity (pooled)"
USER = "float[batch, 4] user"
SCALED = "a = Unsqueeze (speed, one)  b = Unsqueeze (a, one)  h = Mul (e, b)"
STYLED = "s = Gather (STYLES, style)  h = Add (e, s)"

#: name -> model, whether rows are spread to tokens, and the shapes of what a sample has beside its tokens.
CASES: dict[str, tuple[onnx.ModelProto, bool, dict[str, tuple[int, ...]]]] = {
    "joined to the pooled head": (
        encoder(USER, PLAIN, f"{FIRST} j = Concat <axis = 1> (pooled, user)  y = MatMul (j, J)"),
        False,
        {"user": (4,)},
    ),
    "added to every token": (encoder(USER, ADDED, EACH), True, {"user": (4,)}),
    "expanded and joined to every token": (encoder(USER, EXPANDED, EACH), True, {"user": (4,)}),
    "tiled and joined to every token": (encoder(USER, TILED, EACH), True, {"user": (4,)}),
    "sequence first": (encoder(USER, TURNED, EACH), True, {"user": (4,)}),
    "channels first": (encoder(USER, CHANNELS, EACH), True, {"user": (4,)}),
    "a number that scales every token": (encoder("float[batch] speed", SCALED, POOLED), True, {"speed": ()}),
    "a style looked up": (encoder("int64[batch, 1] style", STYLED, EACH), True, {"style": (1,)}),
}


def convert(model: onnx.ModelProto, **shapes: list[int]) -> onnx.ModelProto:
    declared = {name: [ROWS, COLUMNS] for name in ("ids", "mask")} | shapes
    steps = ["extract_constant_to_initializer", "constant_folding", "eliminate_identity"]
    packed = PassManager([*steps, PackedTransformer(PACK_ARGS, declared)]).run(copy_of(model))
    onnx.checker.check_model(packed, full_check=True)
    return packed


def samples(rows: dict[str, tuple[int, ...]], seed: int = 0) -> list[Sample]:
    """Tokens and rows of each sample."""
    rng = np.random.default_rng(seed)

    def row(name: str, shape: tuple[int, ...]) -> Array:
        drawn = rng.integers(0, 5, shape) if name == "style" else rng.normal(size=shape).astype(np.float32)
        return np.asarray(drawn)

    return [
        (
            {"ids": rng.integers(1, 64, n), "mask": np.ones(n, np.int64)},
            {name: row(name, s) for name, s in rows.items()},
        )
        for n in LENGTHS
    ]


def feeds(batch: Sequence[Sample]) -> Arrays:
    """The tokens end to end, and the rows in order, zeros for the samples that are not there."""
    taken = pack([tokens for tokens, _ in batch])
    for name in batch[0][1]:
        stacked = np.stack([rows[name] for _, rows in batch])
        taken[name] = np.concatenate([stacked, np.zeros((MOST - len(batch), *stacked.shape[1:]), stacked.dtype)])
    return taken


def alone(model: onnx.ModelProto, sample: Sample, **values: Array) -> Array:
    tokens, rows = sample
    return run(model, {name: array[None] for name, array in (tokens | rows).items()} | values)["y"][0]


def assert_right(got: Array, model: onnx.ModelProto, batch: Sequence[Sample], **values: Any) -> None:
    for row, sample in enumerate(batch):
        want = alone(model, sample, **values)
        np.testing.assert_allclose(got[row][tuple(map(slice, want.shape))], want, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_a_row_a_sample_gives_each_sample_what_it_has_alone(case: str) -> None:
    model, spread, rows = CASES[case]
    packed, batch = convert(model), samples(rows)
    said = metadata(packed)
    assert said["sample_inputs"] == list(rows)
    assert said["dynamic_inputs"] == ["ids", "mask"]
    assert (said["neighbours"], said["shape_agnostic"]) == ("any", True)
    declared = {value.name: shape_of(value) for value in packed.graph.input}
    assert {name: declared[name] for name in rows} == {name: [MOST, *shape] for name, shape in rows.items()}
    assert any("sample_of_token" in node.name for node in packed.graph.node) == spread
    assert_right(run(packed, feeds(batch))["y"], model, batch)


@pytest.mark.parametrize("case", CASES)
def test_neighbours_with_other_rows_change_nothing(case: str) -> None:
    model, _, rows = CASES[case]
    packed = convert(model)
    batch, others = samples(rows), samples(rows, seed=1)
    before = run(packed, feeds(batch))["y"]
    after = run(packed, feeds([batch[0], *others[1:5], batch[5]]))["y"]
    np.testing.assert_array_equal(before[[0, 5]], after[[0, 5]])


@pytest.mark.parametrize("case", CASES)
def test_the_ragged_graph_takes_as_many_rows_as_there_are_samples(case: str) -> None:
    model, _, rows = CASES[case]
    executable = Compiler.compile(convert(model))
    batch = samples(rows)[:3]
    tokens = {name: np.concatenate([t[name] for t, _ in batch])[None] for name in ("ids", "mask")}
    lengths = np.array([[len(t["ids"])] for t, _ in batch], np.int32)
    stacked = {name: np.stack([r[name] for _, r in batch]) for name in rows}
    got = EngineSession(executable).run({**tokens, **stacked, "unpack_info": lengths}, ["y"])[0]
    assert len(got) == 3
    assert_right(got, model, batch)


def test_each_token_gets_its_row_by_one_index_for_the_whole_graph() -> None:
    body = ADDED.replace("h = Add", "h1 = Add") + "  w2 = MatMul (v, G)  row2 = Unsqueeze (w2, one)  h = Mul (h1, row2)"
    packed = convert(encoder("float[batch, 4] user", body, "y = Identity (z)"))
    spread = [node.input[1] for node in packed.graph.node if "_spread_" in node.output[0] and node.op_type == "Gather"]
    assert len(spread) == 2
    assert len(set(spread)) == 1
    assert ops(packed).count("Range") == 1


RUNS = {
    "a scalar": ("float rate", "h = Mul (e, rate)", np.float32(0.7)),
    "numbers": ("float[8] scale", "h = Mul (e, scale)", np.linspace(-1, 1, 8, dtype=np.float32)),
    "a matrix": ("float[1,8] scale", "h = Mul (e, scale)", np.linspace(-1, 1, 8, dtype=np.float32)[None]),
}


def shared_rows(model: onnx.ModelProto, batch: Sequence[Sample], **pack_args: int) -> tuple[onnx.ModelProto, Arrays]:
    """The model within rows, and three samples of it: two in the first row, one in the second."""
    shapes = {name: [2, COLUMNS] for name in ("ids", "mask")}
    steps = ["extract_constant_to_initializer", "constant_folding", "eliminate_identity"]
    model = PassManager([*steps, InsertAttentionMask(shapes, pack_args)]).run(copy_of(model))
    fed = {name: np.zeros((2, COLUMNS), np.int64) for name in ("ids", "mask")}
    for (tokens, _), row, column, number in zip(batch, (0, 0, 1), (0, 5, 0), (1, 2, 1), strict=True):
        place = (row, slice(column, column + len(tokens["ids"])))
        fed["ids"][place], fed["mask"][place] = tokens["ids"], number
    return model, fed


@pytest.mark.parametrize("case", RUNS)
def test_a_value_a_run_holds_for_samples_that_share_rows(case: str) -> None:
    declared, body, value = RUNS[case]
    name = declared.split()[1]
    model, batch = encoder(declared, body, EACH), [samples({})[place] for place in (0, 2, 3)]
    rewritten, fed = shared_rows(model, batch)
    said = metadata(rewritten)
    assert (said["run_inputs"], said["dynamic_inputs"]) == ([name], ["ids", "mask"])
    got = run(rewritten, fed | {name: np.asarray(value)})["y"]
    ends = [got[0, :5], got[0, 5:6], got[1, :7]]
    for own, sample in zip(ends, batch, strict=True):
        np.testing.assert_allclose(own, alone(model, sample, **{name: np.asarray(value)}), atol=TOLERANCE)


def test_a_head_of_shared_rows_reads_a_value_a_run() -> None:
    model = encoder("float rate", PLAIN, f"{FIRST} y = Mul (pooled, rate)")
    batch = [samples({})[place] for place in (0, 2, 3)]
    rewritten, fed = shared_rows(model, batch, max_valid_num=3, segment_max_size=9)
    rate = np.array(0.7, np.float32)
    info = np.array([[5], [7], [7]], np.int32)  # to the next sample, or the row's end
    got = run(rewritten, fed | {"rate": rate, "unpack_info": info})["y"]
    for own, sample in zip(got, batch, strict=True):
        np.testing.assert_allclose(own, alone(model, sample, rate=rate), atol=TOLERANCE)


def test_a_row_a_sample_is_refused_within_rows_by_name_with_the_other_layout() -> None:
    model = CASES["added to every token"][0]
    with pytest.raises(PackingError, match=r"input 'user' \['batch', 4\] holds one row a sample.* give --pack_args"):
        shared_rows(model, [])


@pytest.mark.parametrize("case", RUNS)
def test_a_value_a_run_stays_as_it_is(case: str) -> None:
    declared, body, value = RUNS[case]
    name = declared.split()[1]
    model = encoder(declared, body, "y = Identity (z)")
    packed, batch = convert(model), samples({})
    said = metadata(packed)
    assert (said["run_inputs"], said["sample_inputs"], said["neighbours"]) == ([name], [], "any")
    before = next(shape_of(item) for item in model.graph.input if item.name == name)
    assert next(shape_of(item) for item in packed.graph.input if item.name == name) == before
    fed = {name: np.asarray(value)}
    assert_right(run(packed, feeds(batch) | fed)["y"], model, batch, **fed)


def bert_with_a_user(*, every_token: bool) -> onnx.ModelProto:
    """A BERT whose user vector [batch, 16] is added to every token's embedding, or joined to the pooled token."""
    model = build_bert(BertConfig(**{**SIZES["tiny"], "head": "sequence", "dialect": "new-torch"}))
    graph, rng = model.graph, np.random.default_rng(0)
    graph.input.append(helper.make_tensor_value_info("user", TensorProto.FLOAT, ["batch", 16]))
    met = "user_row" if every_token else "user_rows"
    where = next(
        node
        for node in graph.node
        if (node.op_type == "LayerNormalization" if every_token else "head.classifier.weight" in node.input)
    )
    nodes = [
        helper.make_node("MatMul", ["user", "user_weight"], ["user_rows"]),
        helper.make_node("Unsqueeze", ["user_rows", "user_axis"], ["user_row"]),
        helper.make_node("Add", [where.input[0], met], ["with_user"]),
    ]
    where.input[0] = "with_user"
    place = list(graph.node).index(where)
    for node in reversed(nodes):
        graph.node.insert(place, node)
    graph.initializer.append(numpy_helper.from_array(rng.normal(size=(16, 64)).astype(np.float32), "user_weight"))
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "user_axis"))
    return model


@pytest.mark.parametrize("every_token", [False, True], ids=["joined to the head", "added to every token"])
def test_a_bert_with_a_user_vector(every_token: bool) -> None:
    model = bert_with_a_user(every_token=every_token)
    packed = PassManager([ConvertOpset(17), PackedTransformer(PACK_ARGS)]).run(copy_of(model))
    said = metadata(packed)
    assert (said["sample_inputs"], said["neighbours"]) == (["user"], "any")
    rng = np.random.default_rng(1)
    batch = [(tokens, {"user": rng.normal(size=16).astype(np.float32)}) for tokens in random_samples(LENGTHS)]
    got = run(packed, feeds(batch))["logits"]
    for row, (tokens, user) in zip(got, batch, strict=False):
        want = run(model, {name: array[None] for name, array in (tokens | user).items()})["logits"][0]
        np.testing.assert_allclose(row, want, atol=TOLERANCE, rtol=TOLERANCE)
    others = [(tokens, {"user": -user["user"]}) for tokens, user in batch[1:]]
    np.testing.assert_array_equal(run(packed, feeds([batch[0], *others]))["logits"][0], got[0])
