"""Constants near the end of float32, which masks are made of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from passes.graph_io import export_graph, import_graph
from poprt.compiler import Compiler, CompilerOptions
from poprt.compiler.large_constants import ClampLargeConstants
from poprt.manifest import ONNXRUNTIME, OPENVINO

LEAST = np.finfo(np.float32).min
BODY = (
    '<ir_version: 8, opset_import: ["" : 17]> m (float[4] x, bool[4] m, bool c) => (float[4] y) { '
    "h = Where(m, x, least) y = If(c) <then_branch = t () => (float[4] a) { a = Where(m, h, inner) }, "
    "else_branch = e () => (float[4] b) { b = Identity(h) }> }"
)


def model() -> onnx.ModelProto:
    proto = parser.parse_model(BODY)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([LEAST, -np.inf, -1, -LEAST], np.float32), "least"))
    branch = proto.graph.node[1].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(np.array(LEAST, np.float32), "inner"))
    return proto


def constants(proto: onnx.ModelProto) -> list[float]:
    branch = next(a.g for node in proto.graph.node for a in node.attribute if a.name == "then_branch")
    tensors = [*proto.graph.initializer, *branch.initializer]
    return [float(x) for tensor in tensors for x in numpy_helper.to_array(tensor).reshape(-1)]


def test_finite_numbers_stay_finite_in_the_graph_and_its_branches() -> None:
    graph = import_graph(model())
    assert ClampLargeConstants().apply(graph).counts == {"constants clamped": 2}
    most = float(np.float32(1e30))
    assert constants(export_graph(graph)) == [-most, -np.inf, -1, most, -most]
    assert not ClampLargeConstants().apply(graph).modified


@pytest.mark.parametrize(("engine", "clamped"), [(OPENVINO, True), (ONNXRUNTIME, False)])
def test_they_stay_for_onnxruntime(engine: str, clamped: bool) -> None:
    graph = onnx.load_from_string(Compiler.compile(model(), options=CompilerOptions(engine=engine)).graph)
    assert (float(LEAST) not in constants(graph)) == clamped
