"""How large a model is: every weight counts once, wherever it lies."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from poprt.sizes import weight_bytes


def initializer(name: str, number: int) -> TensorProto:
    return numpy_helper.from_array(np.zeros(number, np.float32), name)


def constant(name: str, number: int) -> object:
    return helper.make_node("Constant", [], [name], value=initializer("", number))


def branching(then: list[object], tensors: list[TensorProto]) -> object:
    """An If; the first of its two branches holds the given nodes and initializers."""
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branches = [helper.make_graph(then, "then", [], [output], tensors), helper.make_graph([], "else", [], [output])]
    return helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])


def of(nodes: list[object], tensors: list[TensorProto], functions: list[object] | None = None) -> ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors), functions=functions or [])


def test_initializers_and_constants_of_the_main_graph_count() -> None:
    assert weight_bytes(of([constant("k", 10)], [initializer("w", 100)])) == 4 * 110


def test_weights_of_subgraphs_count_at_any_depth() -> None:
    inner = branching([constant("k", 1)], [initializer("u", 10)])
    outer = branching([inner], [initializer("v", 100)])
    assert weight_bytes(of([outer], [initializer("w", 1000)])) == 4 * 1111


def test_constants_of_local_functions_count() -> None:
    body = [constant("k", 10), branching([], [initializer("u", 100)])]
    function = helper.make_function("local", "F", [], ["y"], body, [helper.make_opsetid("", 17)])
    assert weight_bytes(of([], [], [function])) == 4 * 110
