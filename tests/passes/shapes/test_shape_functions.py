import pytest
from onnx import TensorProto, helper

from passes.errors import RewriteError
from passes.onnx_helper import clean_info, get_constant, get_dtype, get_shape
from passes.shapes import shape_functions
from passes.shapes.infer_model import infer_shapes
from passes.shapes.shape_functions import ShapeFunc, register_shape_func
from passes.shapes.shape_inference import ShapeInference
from tests.passes.rewrites import declared, parse

CHAIN = """
g (float[batch, seq, 8] x) => (float[?, ?, ?] y)
{
  s = local.Swap(x)
  y = Relu(s)
}
"""


@pytest.fixture(autouse=True)
def _no_functions_left_over(monkeypatch):
    monkeypatch.setattr(shape_functions, "_FUNCTIONS", {})


def swap(change=lambda shape: [shape[0], shape[2], shape[1]]):
    """Register a shape function for Swap that applies ``change`` to the input's shape."""

    @register_shape_func(["Swap"])
    class Swap(ShapeFunc):
        def __call__(self, model, node):
            shape, dtype = get_shape(model.graph, node.input[0]), get_dtype(model.graph, node.input[0])
            if not shape or 0 in shape:
                return model, False
            value_info = helper.make_tensor_value_info(node.output[0], dtype, change(shape))
            return self.update_value_info(model, value_info), True

    return Swap


def test_without_a_function_nothing_certain_is_known_of_an_unknown_operator():
    assert get_shape(infer_shapes(parse(CHAIN)).graph, "s") is None


def test_open_extents_travel_through_a_custom_operator():
    swap()
    shapes = declared(infer_shapes(parse(CHAIN)))
    assert shapes["s"] == shapes["y"] == ["batch", 8, "seq"]


def test_the_shape_inference_pass_asks_the_functions_too():
    swap()
    assert declared(ShapeInference().run(parse(CHAIN)))["s"] == ["batch", 8, "seq"]


def test_an_extent_that_only_holds_for_some_sizes_stays_unknown():
    swap(lambda shape: [shape[0], min(shape[1], 512), shape[1] + 1])
    shapes = declared(infer_shapes(parse(CHAIN)))
    assert shapes["s"] == ["batch", "", ""]


def test_fixed_extents_are_given_as_they_are():
    swap(lambda shape: [shape[0] * shape[1], shape[2] // 2])
    model = parse(CHAIN.replace("batch, seq, 8", "2, 6, 8").replace("?, ?, ?", "?, ?"))
    assert declared(infer_shapes(model))["y"] == [12, 4]


def test_a_plain_function_may_read_constants_and_return_a_bool():
    @register_shape_func("Repeat")
    def repeat(model, node):
        times = get_constant(model.graph, node.input[1]).int64_data[0]
        extents = get_shape(model.graph, node.input[0])
        value_info = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [extents[0], extents[1] * times])
        model.graph.value_info.append(value_info)
        return True

    model = parse("g (float[b, 3] x) => (float[?, ?] y) <int64[1] n = {4}> { r = local.Repeat(x, n) y = Relu(r) }")
    assert declared(infer_shapes(model))["y"] == ["b", 12]


def test_a_function_may_give_another_type_than_its_input_has():
    @register_shape_func("Rank")
    def rank(model, node):
        shape = get_shape(model.graph, node.input[0])
        model.graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.INT32, shape[:1]))
        return True

    model = parse("g (float[b, 3] x) => (int32[?] y) { r = local.Rank(x) n = Neg(r) y = Abs(n) }")
    inferred = infer_shapes(model).graph
    assert [get_dtype(inferred, name) for name in "rny"] == [TensorProto.INT32] * 3


def test_operators_that_onnx_knows_keep_their_own_rule():
    @register_shape_func(["Relu"])
    def wrong(model, node):
        raise AssertionError("not asked")

    model = parse("g (float[b, 3] x) => (float[?, ?] y) { r = Relu(x) y = Neg(r) }")
    assert declared(infer_shapes(model))["r"] == ["b", 3]


def test_a_function_that_fails_is_an_error_that_names_operator_and_shapes():
    swap(lambda shape: shape[9])
    with pytest.raises(RewriteError, match=r"shape function of Swap failed for inputs x \[11, 13, 8\]: IndexError"):
        infer_shapes(parse(CHAIN))


def test_update_value_info_replaces_what_was_known():
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    for name, extent in (("y", 5), ("between", 6), ("between", 7)):
        ShapeFunc().update_value_info(model, helper.make_tensor_value_info(name, TensorProto.FLOAT, [extent]))
    assert (get_shape(model.graph, "y"), get_shape(model.graph, "between")) == ([5], [7])
    assert len(model.graph.value_info) == 1


def test_a_shape_func_without_call_says_what_to_override():
    with pytest.raises(NotImplementedError, match="ShapeFunc must override __call__"):
        ShapeFunc()(None, None)


def test_infer_shapes_replaces_the_outputs_shape_that_a_change_made_wrong():
    model = parse("g (float[4, 3] x) => (float[4, 3] y) { r = Relu(x) y = Neg(r) }")
    model = infer_shapes(model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 9
    shapes = declared(infer_shapes(clean_info(model)))
    assert shapes["r"] == shapes["y"] == [9, 3]


def test_infer_shapes_keeps_what_an_output_declares_where_nothing_is_known():
    model = parse("g (float[4, 3] x) => (float[4, 7] y) { y = local.Unknown(x) }")
    assert declared(infer_shapes(model))["y"] == [4, 7]
