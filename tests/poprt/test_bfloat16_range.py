"""Constants that bfloat16 does not reach, in graphs that may be computed in it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from passes.graph_io import export_graph, import_graph
from passes.precision.float_to_bfloat16 import COMPUTE_KEY
from poprt.compiler import Compiler, CompilerOptions
from poprt.compiler.bfloat16_range import ClampToBfloat16
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
    assert ClampToBfloat16().apply(graph).counts == {"constants clamped": 2}
    most = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    assert constants(export_graph(graph)) == [-most, -np.inf, -1, most, -most]
    assert not ClampToBfloat16().apply(graph).modified


@pytest.mark.parametrize(("engine", "marked", "clamped"), [(OPENVINO, 1, 1), (OPENVINO, 0, 0), (ONNXRUNTIME, 1, 0)])
def test_where_nothing_is_computed_in_bfloat16_they_stay(engine: str, marked: bool, clamped: bool) -> None:
    proto = model()
    if marked:
        proto.metadata_props.add(key=COMPUTE_KEY, value="bfloat16")
    graph = onnx.load_from_string(Compiler.compile(proto, options=CompilerOptions(engine=engine)).graph)
    assert (float(LEAST) not in constants(graph)) == clamped
