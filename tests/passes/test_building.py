"""Adding nodes, importing domains, and walking protobuf graphs: one function each."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

from passes.building import add_node, import_domain
from passes.node_protos import opset_of, subgraphs, walk_graphs, walk_nodes

NESTED = """
<ir_version: 8, opset_import: ["" : 17]> outer (bool c, float[1] x) => (float[1] y) {
    y = If (c) <
        then_branch = first () => (float[1] t) { t = If (c) <
            then_branch = second () => (float[1] u) { u = Relu (x) },
            else_branch = third () => (float[1] v) { v = Neg (x) }
        > },
        else_branch = fourth () => (float[1] w) { w = Abs (x) }
    >
}
"""


def test_a_node_is_named_as_its_result() -> None:
    nodes: list[gs.Node] = []
    tensor = add_node(nodes, "Cast", "half", [gs.Variable("x")], np.float16, to=10)
    assert (tensor.name, tensor.dtype, tensor.inputs) == ("half", np.float16, nodes)
    assert (nodes[0].op, nodes[0].name, nodes[0].attrs) == ("Cast", "half", {"to": 10})


def test_a_node_may_give_a_tensor_that_exists() -> None:
    nodes: list[gs.Node] = []
    output = gs.Variable("y", np.int64)
    assert add_node(nodes, "Gelu", "gelu", [gs.Variable("x")], into=output, domain="com.microsoft") is output
    assert (nodes[0].name, nodes[0].domain, nodes[0].outputs) == ("gelu", "com.microsoft", [output])


def test_a_domain_is_imported_once() -> None:
    graph = gs.Graph()
    for version in (1, 2):
        import_domain(graph, "com.microsoft", version)
    assert [(entry.domain, entry.version) for entry in graph.import_domains] == [("com.microsoft", 1)]


def test_nested_graphs_come_after_the_graph_that_holds_them() -> None:
    graph = onnx.parser.parse_model(NESTED).graph
    assert [each.name for each in walk_graphs(graph)] == ["outer", "first", "second", "third", "fourth"]
    assert [each.name for each in subgraphs(graph.node[0])] == ["first", "fourth"]
    assert [node.op_type for node in walk_nodes(graph.node)] == ["If", "If", "Relu", "Neg", "Abs"]


def test_graphs_in_a_list_are_walked_too() -> None:
    inner = [onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], [op])], op, [], []) for op in ("Abs", "Neg")]
    node = onnx.helper.make_node("Many", [], ["y"], graphs=inner)
    assert [graph.name for graph in subgraphs(node)] == ["Abs", "Neg"]


@pytest.mark.parametrize(
    ("domains", "opset"), [({"": 17, "other": 99}, 17), ({"ai.onnx": 13}, 13), ({"other": 99}, 1), ({}, 1)]
)
def test_the_opset_is_that_of_the_standard_operators(domains: dict[str, int], opset: int) -> None:
    model = onnx.ModelProto(opset_import=[onnx.helper.make_opsetid(*item) for item in domains.items()])
    assert opset_of(model) == opset
