"""Which rank each tensor has, where onnx has no rule of its own."""

import pytest

from passes.graph_io import import_graph
from passes.shapes.convert_opset import ConvertOpset
from passes.shapes.dtypes import infer_dtypes
from passes.shapes.ranks import ProvedShapes
from tests.passes.rewrites import ops, parse


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        ("float[4, 8] x, float[8] y", (4, 8)),
        ("float[4, 1] x, float[3, 1, 8] y", (3, 4, 8)),
        ("float[b, 8] x, float[1, 8] y", (None, 8)),
        ("float[b, 8] x, float[4, 8] y", (None, 8)),
        ("float[1] x, float y", (1,)),
    ],
)
def test_a_comparison_of_opset_12_broadcasts(inputs: str, shape: tuple[int | None, ...]) -> None:
    graph = import_graph(parse(f"m ({inputs}) => (bool z) {{ z = LessOrEqual (x, y) }}", opset=12))
    graph.outputs[0].shape = None
    infer_dtypes(graph)
    assert ProvedShapes(graph).shape(graph.outputs[0]) == shape


def test_a_softmax_behind_such_a_mask_is_raised_as_it_is() -> None:
    text = """m (float[b, 4, s, s] x, float[s, s] distance) => (float[b, 4, s, s] y) {
        near = Constant <value = float {2.0}> ()  window = LessOrEqual (distance, near)
        low = Constant <value = float {-1e9}> ()  scores = Where (window, x, low)
        y = Softmax <axis = 3> (scores)
    }"""
    assert ops(ConvertOpset(13).run(parse(text, opset=12)))[-1] == "Softmax"
    assert "Flatten" not in ops(ConvertOpset(13).run(parse(text, opset=12)))
