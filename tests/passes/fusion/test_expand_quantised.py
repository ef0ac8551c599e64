"""expand_fused_ops on operators of quantised tensors: the operators in their place give the same whole numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes.fusion.expand_fused_ops import ExpandFusedOps
from passes.graph_io import import_graph
from tests.numerics import Arrays, run
from tests.passes.rewrites import copy_of, ops, parse, rewritten

RNG = np.random.default_rng(0)
CONSTANTS: Arrays = {
    "s": np.array(0.02, np.float32),
    "t": np.array(0.03, np.float32),
    "u": np.array(0.2, np.float32),
    "columns": RNG.uniform(0.01, 0.05, 6).astype(np.float32),
    "rows": RNG.uniform(0.01, 0.05, 3).astype(np.float32),
    "z": np.array(128, np.uint8),
    "zi": np.array(0, np.int8),
    "zs": np.zeros(6, np.int8),
    "zr": np.full(3, 128, np.uint8),
    "w": RNG.integers(-60, 61, (5, 6)).astype(np.int8),  # larger ones overflow on a CPU without 8-bit dot products
}
FEEDS: Arrays = {name: RNG.integers(0, 256, (2, 3, 5)).astype(np.uint8) for name in ("x", "y")}


def model(body: str) -> onnx.ModelProto:
    parsed = parse(f"g (uint8[2, 3, 5] x, uint8[2, 3, 5] y) => (uint8[2, 3, columns_] r) {{ {body} }}")
    read = {name for node in parsed.graph.node for name in node.input}
    parsed.graph.initializer.extend(
        numpy_helper.from_array(CONSTANTS[name], name) for name in CONSTANTS if name in read
    )
    return parsed


@pytest.mark.parametrize(
    ("body", "computes"),
    [
        ("r = QLinearMatMul (x, s, z, w, t, zi, u, z)", "MatMul"),
        ("r = QLinearMatMul (x, s, z, w, columns, zs, u, z)", "MatMul"),
        ("r = com.microsoft.QLinearAdd (x, s, z, y, t, z, u, z)", "Add"),
        ("r = com.microsoft.QLinearMul (x, s, z, y, t, z, u, z)", "Mul"),
        ("r = com.microsoft.QLinearSigmoid (x, s, z, t, z)", "Sigmoid"),
        ("r = com.microsoft.QLinearLeakyRelu <alpha = 0.3> (x, s, z, t, z)", "LeakyRelu"),
    ],
)
def test_it_is_written_in_floats_between_the_conversions(body: str, computes: str) -> None:
    before = model(body)
    after = rewritten(ExpandFusedOps(), before, full_check=False)
    operands = 1 if computes in ("Sigmoid", "LeakyRelu") else 2
    assert ops(after) == [*["DequantizeLinear"] * operands, computes, "QuantizeLinear"]
    got, want = run(after, FEEDS)["r"].astype(int), run(before, FEEDS)["r"].astype(int)
    assert np.abs(got - want).max() <= 1  # a value halfway between two numbers may go either way


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("r = QLinearMatMul (x, rows, zr, w, t, zi, u, z)", "a scale for each row"),
        ("r = com.microsoft.QLinearAdd (x, s, z, y, t, z, u)", "no zero point"),
    ],
)
def test_what_would_be_read_wrong_is_left_alone_with_a_reason(body: str, reason: str) -> None:
    graph = import_graph(copy_of(model(body)))
    result = ExpandFusedOps().apply(graph)
    assert not result.modified
    assert reason in result.refusals[0].reason
