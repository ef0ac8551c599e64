"""Squeeze says which axes it drops."""

from __future__ import annotations

import numpy as np
import pytest

from passes.shapes.fill_squeeze_axes import FillSqueezeAxes
from tests.numerics import run
from tests.passes.rewrites import ops, parse, rewritten


@pytest.mark.parametrize("opset", [11, 17])
def test_the_axes_of_extent_one_are_written_out(opset: int) -> None:
    model = parse("g (float[1,3,1] x) => (float[3] y) { y = Squeeze (x) }", opset=opset)
    converted = rewritten(FillSqueezeAxes(), model)
    assert ops(converted) == ["Squeeze"]
    node = converted.graph.node[0]
    if opset == 11:
        assert list(node.attribute[0].ints) == [0, 2]
    else:
        assert node.input[1] == "y_axes"
    x = np.arange(3, dtype=np.float32).reshape(1, 3, 1)
    np.testing.assert_array_equal(run(converted, {"x": x})["y"], x.reshape(3))


def test_an_unknown_extent_leaves_it_alone() -> None:
    model = parse("g (float[1,n,1] x) => (float[m] y) { y = Squeeze (x) }")
    assert rewritten(FillSqueezeAxes(), model).graph == model.graph
