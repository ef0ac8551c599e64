"""How large a model is: every weight counts once, wherever it lies."""

from __future__ import annotations

import numpy as np
import pytest
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


@pytest.mark.parametrize(
    ("kind", "elements", "nbytes"),
    [
        ("INT4", 10, 5),
        ("UINT4", 9, 5),
        ("FLOAT4E2M1", 1, 1),
        ("INT2", 8, 2),
        ("UINT2", 5, 2),
        ("INT4", 0, 0),
        ("INT8", 9, 9),
        ("FLOAT8E4M3FN", 3, 3),
        ("BFLOAT16", 3, 6),
        ("BOOL", 3, 3),
    ],
)
def test_elements_that_share_a_byte_count_so(kind: str, elements: int, nbytes: int) -> None:
    if kind not in set(TensorProto.DataType.keys()):
        pytest.skip("this onnx has no such type")
    tensor = TensorProto(name="w", data_type=TensorProto.DataType.Value(kind), dims=[elements])
    assert weight_bytes(of([], [tensor])) == nbytes
    assert weight_bytes(of([], [tensor, tensor])) == 2 * nbytes  # each is rounded up by itself


@pytest.mark.parametrize(
    ("attribute", "value", "nbytes"),
    [("value_floats", [0.5, 1.0, 2.0], 12), ("value_ints", [1, 2], 16), ("value_float", 1.0, 4), ("value_int", 3, 8)],
)
def test_constants_that_are_written_as_numbers_count(attribute: str, value: object, nbytes: int) -> None:
    assert weight_bytes(of([helper.make_node("Constant", [], ["k"], **{attribute: value})], [])) == nbytes


def sparse(name: str, filled: int) -> object:
    """A vector of 1000 elements of which the first ``filled`` are stored: 4 bytes a value, 8 an index."""
    indices = numpy_helper.from_array(np.arange(filled), f"{name}_indices")
    return helper.make_sparse_tensor(initializer(name, filled), indices, [1000])


def test_sparse_weights_count_as_they_are_stored() -> None:
    model = of([helper.make_node("Constant", [], ["k"], sparse_value=sparse("", 10))], [])
    model.graph.sparse_initializer.append(sparse("w", 100))
    assert weight_bytes(model) == 12 * 110
