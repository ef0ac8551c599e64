"""Inputs of one type and shape become one input and a Split; the numbers stay."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from passes import Pass
from passes.errors import RewriteError
from passes.fusion.host_concat_split import HostConcatSplit
from passes.graph_io import import_graph
from tests import numerics
from tests.passes.rewrites import declared, ops, parse, rewritten
from tests.poprt.fused_models import packed_bert

MIXED = """
g (float[4, 1] a, float[4, 1] b, float[4, 3] c, float[4, 1] d, int32[4, 1] n, float[4, N] open) => (float[4, M] y)
{
  s = Add(a, b)  t = Mul(s, d)  u = Cast<to = 1>(n)  v = Concat<axis = 1>(t, c, u, open)  y = Neg(v)
}
"""


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    columns = {"a": 1, "b": 1, "c": 3, "d": 1, "open": 2}
    arrays = {name: rng.normal(size=(4, n)).astype(np.float32) for name, n in columns.items()}
    return {**arrays, "n": np.arange(4, dtype=np.int32).reshape(4, 1)}


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("value", [None, [(1, (4, 1))], [("float32", [4, 1])], "[('float32', (4, 1))]"])
def test_inputs_of_a_kind_are_fed_as_one(opset: int, value: object) -> None:
    model = parse(MIXED, opset=opset)
    joined = rewritten(HostConcatSplit(value), model)
    assert list(declared(joined))[:4] == ["host_concat_a", "c", "n", "open"]
    assert declared(joined)["host_concat_a"] == [4, 3]
    assert ops(joined)[0] == "Split"
    said = json.loads({item.key: item.value for item in joined.metadata_props}["HostConcatRunnerConfig"])
    assert said == {
        "host_concat_a": {
            "tensor_name": "host_concat_a",
            "input_tensor_names": ["a", "b", "d"],
            "shape": [4, 1],
            "data_size_bytes": 16,
        }
    }
    arrays = feeds()
    arrays["host_concat_a"] = np.concatenate([arrays[name] for name in "abd"], 1)
    np.testing.assert_array_equal(numerics.run(joined, arrays)["y"], numerics.run(model, arrays)["y"])


def test_inputs_of_one_axis_lie_end_to_end_and_scalars_stay() -> None:
    inputs = "float[2] a, float[2] b, float p, float q"
    model = parse(f"g ({inputs}) => (float[2] y) {{ s = Add(a, b) t = Add(p, q) y = Mul(s, t) }}")
    joined = rewritten(HostConcatSplit(), model)
    assert declared(joined)["host_concat_a"] == [4]
    assert [value.name for value in joined.graph.input] == ["host_concat_a", "p", "q"]


def test_what_an_earlier_run_joined_is_not_joined_again() -> None:
    model = parse("g (float[4, 1] a, float[4, 1] b, float[4, 2] c) => (float[4, 2] y) { s = Add(a, b) y = Add(s, c) }")
    rewritten(HostConcatSplit(), model)
    rewritten(HostConcatSplit([(1, (4, 1))]), model)


def test_an_input_alone_is_left_and_told() -> None:
    result = HostConcatSplit([("float32", (4, 3))]).apply(import_graph(parse(MIXED)))
    assert not result.modified
    assert [refusal.node.name for refusal in result.refusals] == ["c"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([("float32", (9, 9))], r"no input is FLOAT \[9, 9\] with fixed extents; the first are a FLOAT \[4, 1\]"),
        ("float32:4,1", "expected pairs of type and shape"),
        ([("floaty", (4, 1))], "expected pairs of type and shape"),
        ([1], "expected pairs of type and shape"),
    ],
)
def test_what_cannot_be_asked_for_is_named(value: object, text: str) -> None:
    with pytest.raises(RewriteError, match=text):
        Pass.get_pass("apply_host_concat_split", value).run(parse(MIXED))


def test_a_packed_model_and_damaged_metadata_are_refused() -> None:
    with pytest.raises(RewriteError, match="the model is packed"):
        HostConcatSplit().run(packed_bert())
    damaged = parse(MIXED)
    onnx.helper.set_model_props(damaged, {"HostConcatRunnerConfig": "[]"})
    with pytest.raises(RewriteError, match="damaged"):
        HostConcatSplit().run(damaged)
