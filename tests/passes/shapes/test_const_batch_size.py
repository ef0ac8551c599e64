"""The batch size of every input is fixed."""

from __future__ import annotations

from passes.shapes.const_batch_size import ConstBatchSize
from tests.passes.rewrites import declared, ops, parse, rewritten


def test_every_input_and_what_follows_gets_the_batch_size() -> None:
    model = parse("g (float[n,s] x, float[m,s] z) => (float[a,b] y) { y = Add (x, z) }")
    converted = rewritten(ConstBatchSize(3), model)
    assert declared(converted) == {"x": [3, "s"], "z": [3, "s"], "y": [3, "s"]}
    assert ops(converted) == ["Add"]


def test_the_default_is_one_sample() -> None:
    model = parse("g (float[s,n] x) => (float[s,n] y) { y = Neg (x) }")
    assert declared(rewritten(ConstBatchSize(batch_axis=1), model))["y"] == ["s", 1]
