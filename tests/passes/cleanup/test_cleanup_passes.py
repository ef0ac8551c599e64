"""The cleanup passes: what each removes, what it leaves, and that the numbers stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from passes import PassManager, get_pass
from passes.errors import RewriteError

CLEANUP = [
    "remove_initializer_from_input",
    "extract_constant_to_initializer",
    "constant_folding",
    "eliminate_identity",
    "eliminate_nop_cast",
    "eliminate_nop_reshape",
    "eliminate_nop_transpose",
    "remove_duplicated_initializer",
    "eliminate_duplicate_nodes",
    "eliminate_deadend",
    "eliminate_unused_initializer",
    "sort_graph",
    "unique_name_for_nodes",
]


def model_of(text: str, functions: str = "") -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'
    return parser.parse_model(header + text + functions)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(model.SerializeToString(), options).run(None, feeds))


def apply(model: onnx.ModelProto, *passes: object) -> tuple[onnx.ModelProto, PassManager]:
    """The rewritten model, after checking that it is valid and that a second run changes nothing."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    manager = PassManager(passes)
    done = manager.run(copy)
    onnx.checker.check_model(done, full_check=True)
    again = onnx.ModelProto()
    again.CopyFrom(done)
    assert PassManager(passes).run(again).SerializeToString(deterministic=True) == done.SerializeToString(
        deterministic=True
    )
    return done, manager


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def assert_same_numbers(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    for expected, got in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(expected, got)


X23 = {"x": np.arange(6, dtype=np.float32).reshape(2, 3) - 2}


def test_identities_go_and_the_producer_takes_the_outputs_name() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) { a = Identity(x)  b = Relu(a)  c = Neg(b)  d = Abs(b)  "
        "e = Add(c, d)  f = Identity(e)  y = Identity(f) }"
    )
    after, _ = apply(model, "eliminate_identity")
    assert ops(after) == ["Relu", "Neg", "Abs", "Add"]
    assert after.graph.node[-1].output == ["y"]
    assert_same_numbers(model, after, X23)


def test_an_identity_from_an_input_straight_to_an_output_stays_and_says_why() -> None:
    after, manager = apply(model_of("g (float[2,3] x) => (float[2,3] y) { y = Identity(x) }"), "eliminate_identity")
    assert ops(after) == ["Identity"]
    assert "comes straight from an input" in manager.records[0].result.refusals[0].reason


def test_an_identity_between_two_graph_outputs_stays() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] r, float[2,3] y) { r = Relu(x)  y = Identity(r) }")
    after, _ = apply(model, "eliminate_identity")
    assert ops(after) == ["Relu", "Identity"]


def test_a_tensor_that_a_subgraph_captures_survives_the_removal_of_its_identity() -> None:
    model = model_of(
        "g (float[2,3] x, bool c) => (float[2,3] y, float[2,3] z) {"
        " r = Relu(x)  i = Identity(r)  z = Identity(r)"
        " y = If (c) <then_branch = t () => (float[2,3] p) { p = Neg(i) },"
        "             else_branch = e () => (float[2,3] q) { q = Identity(i) }> }"
    )
    after, _ = apply(model, "eliminate_identity")
    assert ops(after) == ["Relu", "If"]
    for flag in (True, False):
        assert_same_numbers(model, after, {**X23, "c": np.array(flag)})


def test_identities_inside_a_local_function_go() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) { y = local.F(x) }\n",
        '<domain: "local", opset_import: ["" : 17]> F (a) => (c) { b = Identity(a)  d = Relu(b)  c = Identity(d) }',
    )
    after, _ = apply(model, "eliminate_identity")
    assert [node.op_type for node in after.functions[0].node] == ["Relu"]
    assert_same_numbers(model, after, X23)


def test_only_a_cast_to_the_present_type_goes() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) { a = Cast<to=1>(x)  b = Cast<to=7>(a)  c = Cast<to=1>(b)  y = Relu(c) }"
    )
    after, _ = apply(model, "eliminate_nop_cast")
    assert ops(after) == ["Cast", "Cast", "Relu"]
    assert_same_numbers(model, after, X23)


@pytest.mark.parametrize(
    ("shape", "target", "goes"),
    [
        ("2,3", [2, 3], True),
        ("2,3", [0, 0], True),
        ("2,3", [-1, 3], True),
        ("N,3", [-1, 3], True),
        ("N,3", [0, 3], True),
        ("N,M", [0, -1], True),
        ("N,M", [-1, 3], False),
        ("2,3", [3, 2], False),
        ("2,3", [6], False),
        ("N,0", [-1, 0], False),
        ("0,3", [-1, 3], False),
    ],
)
def test_a_reshape_goes_where_it_provably_keeps_the_shape(shape: str, target: list[int], goes: bool) -> None:
    model = model_of(
        f"g (float[{shape}] x) => (float[{','.join('AB'[: len(target)])}] y)"
        f" <int64[{len(target)}] s = {{{','.join(map(str, target))}}}> {{ r = Reshape(x, s)  y = Relu(r) }}"
    )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    assert ops(PassManager(["eliminate_nop_reshape"]).run(copy)) == (["Relu"] if goes else ["Reshape", "Relu"])


def test_only_a_transpose_that_keeps_the_axes_goes() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[3,2] y) { a = Transpose<perm=[0,1]>(x)  b = Transpose(a)  y = Relu(b) }"
    )
    after, _ = apply(model, "eliminate_nop_transpose")
    assert ops(after) == ["Transpose", "Relu"]
    assert_same_numbers(model, after, X23)


def test_constants_become_initializers_with_their_values() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y, float[2] k) { a = Constant<value_float=2.5>()  "
        "b = Constant<value = float[3] {1, 2, 3}>()  k = Constant<value_floats = [1.0, 2.0]>()  "
        "c = Mul(x, a)  y = Add(c, b) }"
    )
    after, manager = apply(model, "extract_constant_to_initializer")
    assert {tensor.name for tensor in after.graph.initializer} == {"a", "b"}
    assert ops(after) == ["Constant", "Mul", "Add"]
    assert manager.records[0].result.refusals[0].reason == "'k' is a graph output"
    assert_same_numbers(model, after, X23)


def test_initializers_leave_the_list_of_inputs() -> None:
    model = model_of("g (float[2,3] x, float[3] w) => (float[2,3] y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }")
    after, _ = apply(model, "remove_initializer_from_input")
    assert [value.name for value in after.graph.input] == ["x"]
    assert_same_numbers(model, after, X23)


@pytest.mark.parametrize("name", ["remove_duplicated_initializer", "eliminate_duplicate_initializer"])
def test_equal_initializers_are_stored_once_however_they_are_encoded(name: str) -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) <float[3] a = {1, 2, 3}, float[1,3] c = {1, 2, 3}, "
        "float[3] d = {1, 2, 4}> { p = Add(x, a)  q = Mul(p, b)  r = Add(q, c)  y = Sub(r, d) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.float32), "b"))  # as raw bytes
    after, manager = apply(model, name)
    assert {tensor.name for tensor in after.graph.initializer} == {"a", "c", "d"}
    assert manager.records[0].name == name or name == "eliminate_duplicate_initializer"
    assert manager.records[0].result.counts == {"bytes saved": 12, "initializers merged": 1}
    assert_same_numbers(model, after, X23)


def test_zero_and_minus_zero_are_different_initializers() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) <float[1] a = {0.0}, float[1] b = {-0.0}> "
        "{ p = Div(x, a)  q = Div(x, b)  y = Max(p, q) }"
    )
    after, _ = apply(model, "remove_duplicated_initializer")
    assert len(after.graph.initializer) == 2


def test_constants_are_folded_and_what_depends_on_an_input_is_not() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[3,2] y) <float[3,2] w = {1, 2, 3, 4, 5, 6}> "
        "{ t = Transpose(w)  u = Mul(t, t)  s = Add(x, u)  y = Transpose(s) }"
    )
    after, manager = apply(model, "constant_folding")
    assert ops(after) == ["Add", "Transpose"]
    assert manager.records[0].result.counts == {"nodes folded": 2}
    assert_same_numbers(model, after, X23)


def test_folding_does_not_depend_on_the_order_of_the_nodes() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) <float[3] w = {1, 2, 3}> { a = Neg(w)  b = Abs(a)  y = Add(x, b) }"
    )
    model.graph.node.insert(0, model.graph.node.pop(1))
    manager = PassManager(["constant_folding"])
    assert ops(manager.run(model)) == ["Add"]


def test_random_operators_are_neither_folded_nor_merged() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) { a = RandomNormal<shape=[2,3]>()  b = RandomNormal<shape=[2,3]>()  "
        "c = Add(a, b)  y = Add(x, c) }"
    )
    after, _ = apply(model, "constant_folding", "eliminate_duplicate_nodes")
    assert ops(after) == ["RandomNormal", "RandomNormal", "Add", "Add"]


def test_a_large_expansion_is_not_folded_where_the_size_is_limited() -> None:
    text = (
        "g (float[N] x) => (float[M] y) <float[1] one = {1}, int64[1] s = {100000}> "
        "{ a = Expand(one, s)  b = Neg(one)  c = Add(a, b)  y = Add(x, c) }"
    )
    after, manager = apply(model_of(text), get_pass("constant_folding", max_tensor_size=1000))
    assert ops(after) == ["Expand", "Add", "Add"]
    assert "400000 bytes" in manager.records[0].result.refusals[0].reason
    assert ops(apply(model_of(text), get_pass("constant_folding"))[0]) == ["Add"]


def test_a_graph_output_that_is_constant_keeps_its_node() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y, float[3] k) <float[3] w = {1, 2, 3}> { k = Neg(w)  y = Add(x, k) }"
    )
    assert ops(apply(model, "constant_folding")[0]) == ["Neg", "Add"]


def test_common_subexpressions_are_computed_once() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,2] y, float[2,3] z) { a = Relu(x)  b = Relu(x)  c = Neg(a)  d = Neg(b)  "
        "t = Transpose(d)  y = MatMul(c, t)  z = Relu(x)  w = Abs(x) }"
    )
    after, _ = apply(model, "eliminate_duplicate_nodes")
    assert sorted(ops(after)) == ["Abs", "MatMul", "Neg", "Relu", "Transpose"]
    assert [value.name for value in after.graph.output] == ["y", "z"]
    assert_same_numbers(model, after, X23)


def test_nodes_with_other_attributes_are_no_duplicates() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) { a = Softmax<axis=0>(x)  b = Softmax<axis=1>(x)  y = Add(a, b) }"
    )
    assert ops(apply(model, "eliminate_duplicate_nodes")[0]) == ["Softmax", "Softmax", "Add"]


def test_duplicates_that_are_both_graph_outputs_stay() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y, float[2,3] z) { y = Relu(x)  z = Relu(x) }")
    after, manager = apply(model, "eliminate_duplicate_nodes")
    assert ops(after) == ["Relu", "Relu"]
    assert "both give graph outputs" in manager.records[0].result.refusals[0].reason


def test_dead_nodes_and_functions_go_and_unused_inputs_stay() -> None:
    model = model_of(
        "g (float[2,3] x, float[2,3] unused) => (float[2,3] y) { y = Relu(x)  a = Neg(x)  b = local.F(a) }\n",
        '<domain: "local", opset_import: ["" : 17]> F (a) => (c) { c = Relu(a) }',
    )
    after, manager = apply(model, "eliminate_deadend")
    assert ops(after) == ["Relu"]
    assert not after.functions
    assert [value.name for value in after.graph.input] == ["x", "unused"]
    assert manager.records[0].result.counts == {"nodes removed": 2, "functions removed": 1}


def test_what_only_a_subgraph_captures_is_not_dead() -> None:
    model = model_of(
        "g (float[2,3] x, bool c) => (float[2,3] y) { r = Relu(x)"
        " y = If (c) <then_branch = t () => (float[2,3] p) { p = Neg(r) },"
        "             else_branch = e () => (float[2,3] q) { q = Abs(x) }> }"
    )
    assert ops(apply(model, *CLEANUP)[0]) == ["Relu", "If"]


def test_constants_without_a_reader_go() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,3] y) <float[3] unread = {1, 2, 3}> "
        "{ k = Constant<value_float=1.0>()  y = Relu(x) }"
    )
    after, _ = apply(model, "eliminate_unused_initializer")
    assert ops(after) == ["Relu"]
    assert not after.graph.initializer


def test_a_graph_in_order_keeps_its_order_and_another_is_sorted() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y) { a = Relu(x)  b = Abs(x)  c = Neg(a)  y = Add(b, c) }")
    assert ops(apply(model, "sort_graph")[0]) == ["Relu", "Abs", "Neg", "Add"]
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(model.graph.node))
    after, _ = apply(shuffled, "sort_graph")
    assert_same_numbers(model, after, X23)


def test_a_subgraphs_capture_counts_when_sorting() -> None:
    model = model_of(
        "g (float[2,3] x, bool c) => (float[2,3] y) { r = Relu(x)"
        " y = If (c) <then_branch = t () => (float[2,3] p) { p = Neg(r) },"
        "             else_branch = e () => (float[2,3] q) { q = Abs(r) }> }"
    )
    get_pass("sort_graph").run(model)
    assert ops(apply(model, "sort_graph")[0]) == ["Relu", "If"]


def test_a_cycle_is_an_error_that_names_its_nodes() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y) { a = Add(x, y)  y = Relu(a) }")
    with pytest.raises(RewriteError, match=r"cycle.*Relu 'y'"):
        PassManager(["sort_graph"]).run(model)


def test_every_node_gets_a_name_of_its_own_and_unique_names_stay() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y) { a = Relu(x)  b = Relu(a)  c = Neg(b)  y = Abs(c) }")
    for node, name in zip(model.graph.node, ["Neg_0", "", "", "Neg_0"], strict=True):
        node.name = name
    after, _ = apply(model, "unique_name_for_nodes")
    names = [node.name for node in after.graph.node]
    assert names[0] == "Neg_0"
    assert len(set(names)) == 4


def test_removed_outputs_take_their_nodes_along() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y, float[2,3] z) { y = Relu(x)  a = Neg(x)  z = Abs(a) }")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    after = get_pass("remove_outputs", "z").run(copy)
    assert ops(after) == ["Relu"]
    assert [value.name for value in after.graph.output] == ["y"]


@pytest.mark.parametrize(("names", "message"), [("nope", "no output of the model"), ("y", "keep at least one")])
def test_impossible_removals_are_errors(names: str, message: str) -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    with pytest.raises(RewriteError, match=message):
        get_pass("remove_outputs", names).run(model)


def test_checkpoints_become_typed_outputs() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y) { a = Relu(x)  b = Cast<to=10>(a)  y = Cast<to=1>(b) }")
    after, _ = apply(model, get_pass("add_checkpoints", ["b", "y"]))
    assert [(value.name, value.type.tensor_type.elem_type) for value in after.graph.output] == [
        ("y", TensorProto.FLOAT),
        ("b", TensorProto.FLOAT16),
    ]
    renamed = model_of("g (float[2,3] x) => (float[2,3] y) { hidden_state = Relu(x)  y = Neg(hidden_state) }")
    with pytest.raises(RewriteError, match=r"'hidden_stat'.*did you mean 'hidden_state'"):
        get_pass("add_checkpoints", "hidden_stat").run(renamed)


def test_the_cleanup_chain_keeps_the_numbers_and_changes_nothing_the_second_time() -> None:
    model = model_of(
        "g (float[N,3] x) => (float[N,3] y) <float[3] w = {1, 2, 3}, float[3] v = {1, 2, 3}> {"
        " sh = Constant<value_ints=[0,3]>()  k = Constant<value_float=2.0>()  c = Cast<to=1>(x)"
        " r = Reshape(c, sh)  a = Mul(r, k)  b = Mul(c, k)  i = Identity(a)"
        " p = Add(i, w)  q = Add(b, v)  t = Transpose<perm=[0,1]>(q)  dead = Neg(t)"
        " s = Mul(p, t)  y = Identity(s) }"
    )
    after, _ = apply(model, *CLEANUP)
    assert ops(after) == ["Mul", "Add", "Mul"]
    assert_same_numbers(model, after, X23)


def test_weights_that_are_not_touched_keep_their_bytes() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    after, _ = apply(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), *CLEANUP)
    assert after.graph.initializer[0].raw_data == weight.tobytes()
