import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.errors import RewriteError
from passes.onnx_helper import clean_info, get_constant, get_dtype, get_shape, topological_sort
from tests.passes.rewrites import parse

MODEL = """
g (float[batch, 4] x) => (float[?, 4] y)
<int64[2] shape = {0, -1}, float[batch, 4] r>
{
  n = Constant<value_ints = [3, 5]>()
  c = Constant<value = float[2] {1.0, 2.0}>()
  r = Relu(x)
  y = Reshape(r, shape)
}
"""


def test_shapes_and_types_come_from_wherever_the_graph_says_them():
    graph = parse(MODEL).graph
    assert get_shape(graph, "x") == [0, 4]
    assert get_shape(graph, "r") == [0, 4]
    assert (get_shape(graph, "shape"), get_dtype(graph, "shape")) == ([2], TensorProto.INT64)
    assert (get_shape(graph, "c"), get_dtype(graph, "c")) == ([2], TensorProto.FLOAT)
    assert get_dtype(graph, "y") == TensorProto.FLOAT
    assert (get_shape(graph, "nothing"), get_dtype(graph, "nothing")) == (None, None)


@pytest.mark.parametrize("name", ["shape", "n"])
def test_a_constant_that_is_changed_changes_the_model(name):
    model = parse(MODEL)
    constant = get_constant(model.graph, name)
    constant.CopyFrom(numpy_helper.from_array(np.array([7, 7]), name=constant.name))
    assert numpy_helper.to_array(get_constant(model.graph, name)).tolist() == [7, 7]
    assert bytes(constant.raw_data) in model.SerializeToString()


def test_a_constant_of_plain_numbers_keeps_them_as_a_tensor():
    model = parse(MODEL)
    numbers = numpy_helper.to_array(get_constant(model.graph, "n"))
    assert (numbers.tolist(), numbers.dtype) == ([3, 5], np.int64)
    onnx.checker.check_model(model)


def test_what_is_computed_is_no_constant():
    assert get_constant(parse(MODEL).graph, "r") is None


def test_clean_info_drops_recorded_shapes_in_subgraphs_too():
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"])],
        "branch",
        [],
        [helper.make_tensor_value_info("n", 1, [2])],
        value_info=[helper.make_tensor_value_info("other", 1, [2])],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    info = [helper.make_tensor_value_info("old", 1, [2])]
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", 1, [2])], value_info=info)
    model = helper.make_model(graph)
    assert clean_info(model) is model
    assert not model.graph.value_info
    assert all(not attribute.g.value_info for attribute in model.graph.node[0].attribute)
    assert get_shape(model.graph, "y") == [2]


def test_sorted_nodes_can_be_put_back_into_the_cleared_graph():
    graph = parse(MODEL).graph
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    graph.ClearField("node")
    graph.node.extend(reversed(nodes))
    in_order = topological_sort(graph)
    graph.ClearField("node")
    for node in in_order:
        graph.node.append(node)
    assert [node.op_type for node in graph.node] == ["Relu", "Reshape", "Constant", "Constant"]
    assert graph.node[1].input[0] == "r"


def test_a_sorted_graph_keeps_its_order():
    graph = parse(MODEL).graph
    assert topological_sort(graph) == list(graph.node)


def test_nodes_that_a_subgraph_waits_for_come_first():
    branch = helper.make_graph(
        [helper.make_node("Neg", ["r"], ["n"])], "b", [], [helper.make_tensor_value_info("n", 1, [2])]
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Relu", ["x"], ["r"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    assert [node.op_type for node in topological_sort(graph)] == ["Relu", "If"]


def test_a_circle_is_an_error_that_names_a_node():
    nodes = [helper.make_node("Neg", ["b"], ["a"], name="first"), helper.make_node("Neg", ["a"], ["b"], name="second")]
    with pytest.raises(RewriteError, match="circle of nodes; Neg 'first' waits"):
        topological_sort(helper.make_graph(nodes, "g", [], []))
