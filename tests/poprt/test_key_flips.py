"""Keys flipped by way of three dimensions: found where the targets of the reshapes prove it, left alone elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.graph_io import export_graph, import_graph
from poprt.compiler.key_flips import FlipKeys
from tests.numerics import run
from tests.passes.rewrites import ops, parse

RNG = np.random.default_rng(0)
BATCH, LENGTH, HEADS, SIZE = 3, 5, 2, 4
SPLIT = "Concat <axis = 0> (b, s, n, d)"
FOLDED = "Concat <axis = 0> (open, s, d)"
AFTER = "Concat <axis = 0> (b, n, d, s)"


def keys(
    split: str = SPLIT, folded: str = FOLDED, after: str = AFTER, more: str = "", outputs: str = "float y"
) -> onnx.ModelProto:
    """Keys [batch, length, 8] split into heads and flipped as scaled_dot_product_attention is exported."""
    return parse(
        f"""
        keys (float[batch, length, 8] x) => ({outputs})
        <int64[1] open = {{-1}}, int64[1] n = {{{HEADS}}}, int64[1] d = {{{SIZE}}}, int64[1] zero = {{0}},
         int64[1] six = {{{BATCH * HEADS}}}, int64[1] five = {{{LENGTH}}}, int64[1] three = {{{BATCH}}}> {{
            b = Shape <start = 0, end = 1> (x)  s = Shape <start = 1, end = 2> (x)
            bs = Shape <start = 0, end = 2> (x)  again = Shape <start = 1, end = 2> (x)
            split = {split}  apart = Reshape (x, split)  k = Transpose <perm = [0, 2, 1, 3]> (apart)
            fold = {folded}  flat = Reshape (k, fold)  flipped = Transpose <perm = [0, 2, 1]> (flat)
            after = {after}  y = Reshape (flipped, after)
            {more}
        }}
        """
    )


def rewritten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    graph = import_graph(model)
    count = FlipKeys().apply(graph).counts.get("keys flipped in place", 0)
    flipped = export_graph(graph)
    onnx.checker.check_model(flipped)
    return flipped, count


def assert_same(model: onnx.ModelProto, flipped: onnx.ModelProto) -> None:
    x = RNG.standard_normal((BATCH, LENGTH, HEADS * SIZE)).astype(np.float32)
    got = run(flipped, {"x": x})
    for name, want in run(model, {"x": x}).items():
        np.testing.assert_array_equal(got[name], want)


@pytest.mark.parametrize(
    "targets",
    [
        {},
        {"split": "Concat <axis = 0> (b, open, n, d)"},
        {"split": "Concat <axis = 0> (b, s, open, d)"},
        {"split": "Concat <axis = 0> (open, s, n, d)"},
        {
            "split": "Concat <axis = 0> (b, five, n, d)",
            "folded": "Concat <axis = 0> (open, five, d)",
            "after": "Concat <axis = 0> (b, n, d, five)",
        },
    ],
    ids=str,
)
def test_keys_whose_targets_agree_are_flipped_once(targets: dict[str, str]) -> None:
    model = keys(**targets)
    flipped, count = rewritten(model)
    assert count == 1
    assert ops(flipped).count("Reshape") == 1
    assert flipped.graph.node[-1].attribute[0].ints == [0, 1, 3, 2]
    assert_same(model, flipped)


@pytest.mark.parametrize(
    "targets",
    [
        {"after": "Concat <axis = 0> (n, b, d, s)"},
        {"after": "Concat <axis = 0> (b, n, s, d)"},
        {"after": "Concat <axis = 0> (b, n, d, again)"},
        {"after": "Concat <axis = 0> (b, n, d, open)"},
        {"folded": "Concat <axis = 0> (six, s, d)"},
        {"split": "Concat <axis = 0> (bs, n, d)"},
        {"split": "Concat <axis = 0> (zero, s, n, d)", "after": "Concat <axis = 0> (three, n, d, s)"},
    ],
    ids=str,
)
def test_keys_whose_targets_prove_nothing_are_left_alone(targets: dict[str, str]) -> None:
    model = keys(**targets)
    flipped, count = rewritten(model)
    assert count == 0
    assert_same(model, flipped)


@pytest.mark.parametrize("name", ["flat", "flipped"])
@pytest.mark.parametrize("how", ["node", "output"])
def test_a_tensor_with_another_reader_is_left_alone(name: str, how: str) -> None:
    read = name if how == "output" else "z"
    more = "" if how == "output" else f"z = Identity ({name})"
    model = keys(more=more, outputs=f"float y, float[p, q, r] {read}")
    flipped, count = rewritten(model)
    assert count == 0
    assert_same(model, flipped)


ROTATED = """g (float[batch, 2, length, 4] k) => (float[batch, 2, LAST] y) <int64[1] open = {-1}, int64[1] n = {2},
    int64[1] d = {4}> {
    b = Shape <start = 0, end = 1> (k)  s = Shape <start = 2, end = 3> (k)
    turned = Neg (k)  fold = Concat <axis = 0> (open, s, d)  flat = Reshape (turned, fold)
    flipped = Transpose <perm = [0, 2, 1]> (flat)  after = Concat <axis = 0> (b, n, d, s)  y = Reshape (flipped, after)
}"""


@pytest.mark.parametrize(("last", "flips"), [("4, length", 1), ("4, other", 0)])
def test_keys_that_come_from_no_reshape_are_flipped_where_declared_shapes_prove_it(last: str, flips: int) -> None:
    model = parse(ROTATED.replace("LAST", last))
    graph = import_graph(model)
    graph.tensors()["turned"].shape = list(graph.inputs[0].shape)
    count = FlipKeys().apply(graph).counts.get("keys flipped in place", 0)
    assert count == flips
    x = RNG.standard_normal((BATCH, HEADS, LENGTH, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(run(export_graph(graph), {"k": x})["y"], run(model, {"k": x})["y"])
