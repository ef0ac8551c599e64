"""What is refused before any pass runs, by name, and what is read although it looks odd."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from passes.errors import RewriteError
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import CompileError
from tests.numerics import run
from tests.passes.rewrites import copy_of, parse

FUNCTION = '<domain: "local", opset_import: ["" : 17, "local" : 1]>'


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    return Converter(disable_progress_bar=True).convert(model)


def add_weight(name: str = "w", **fields: object) -> onnx.ModelProto:
    """y = x + w."""
    model = parse("g (float[2,8] x) => (float[2,8] y) { y = Add (x, w) }")
    tensor = numpy_helper.from_array(np.ones((2, 8), np.float32), name)
    for field, value in fields.items():
        if field == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)  # type: ignore[arg-type]
        else:
            setattr(tensor, field, value)
    model.graph.initializer.append(tensor)
    return model


def two_weights() -> onnx.ModelProto:
    model = add_weight()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 8), np.float32), "w"))
    return model


def at_opset(version: int, domain: str = "") -> onnx.ModelProto:
    model = add_weight()
    entry = model.opset_import[0] if not domain else model.opset_import.add(domain=domain)
    entry.version = version
    return model


def with_bytes(text: str) -> onnx.ModelProto:
    """The model with a name that is no UTF-8 in the place of ``text``."""
    return onnx.load_model_from_string(add_weight().SerializeToString().replace(text.encode(), b"\xff" * len(text)))


def typed(number: int) -> onnx.ModelProto:
    model = add_weight()
    model.graph.input[0].type.tensor_type.elem_type = number
    return model


def subgraph_again() -> onnx.ModelProto:
    return parse(
        "g (float[2] x, bool c) => (float[2] y) { v = Relu (x)  z = If (c) <"
        "then_branch = t () => (float[2] v) { v = Neg (x) }, else_branch = e () => (float[2] u) { u = Abs (x) }>"
        " y = Add (z, v) }"
    )


def subgraph_weight() -> onnx.ModelProto:
    model = subgraph_again()
    branch = next(item.g for item in model.graph.node[1].attribute if item.name == "then_branch")
    branch.node[0].output[0] = branch.output[0].name = "own"
    branch.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "v"))
    return model


def typed_values(count: int) -> onnx.ModelProto:
    """A weight of 16 elements whose values stand in the field of their type."""
    model = add_weight()
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend([1.0] * count)
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (two_weights(), ["two initializers", "'w'"]),
        (at_opset(2**40), ["opset 1099511627776", "knows 1 to"]),
        (at_opset(0), ["opset 0"]),
        (at_opset(2**40, "com.example"), ["'com.example'"]),
        (typed(99), ["tensor 'x'", "element type 99"]),
        (add_weight(data_type=99), ["initializer 'w'", "element type 99"]),
        (add_weight(data_type=0), ["initializer 'w'", "no element type"]),
        (add_weight(dims=[-2, -8]), ["initializer 'w'", "negative extents"]),
        (add_weight(dims=[2, 2**40]), ["initializer 'w' is truncated", "64 bytes of"]),
        (add_weight(raw_data=bytes(60)), ["initializer 'w' is truncated", "60 bytes of 64"]),
        (with_bytes("Add"), ["no UTF-8", r"\xff\xff\xff"]),
        (subgraph_again(), ["tensor 'v'", "Neg", "Relu"]),
        (subgraph_weight(), ["a subgraph has an initializer 'v'", "made by", "rename one of them"]),
        (typed_values(15), ["initializer 'w' is truncated", "15 values of 16"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_model_that_no_pass_can_read_is_refused_by_name(model: onnx.ModelProto, words: list[str]) -> None:
    with pytest.raises(RewriteError) as refused:
        convert(model)
    assert all(word in str(refused.value) for word in words), refused.value
    with pytest.raises(CompileError) as error:
        Compiler.compile(model)
    assert str(error.value) == str(refused.value)


def test_the_renamed_weight_of_a_subgraph_is_taken() -> None:
    model = subgraph_weight()
    branch = next(item.g for item in model.graph.node[1].attribute if item.name == "then_branch")
    branch.initializer[0].name = "v_inside"
    assert convert(model)


def test_a_long_weight_is_found_truncated_without_reading_it() -> None:
    whole = numpy_helper.from_array(np.zeros(70_000, np.uint8), "w")
    model = parse("g (uint8[70000] x) => (uint8[70000] y) { y = Add (x, w) }")
    model.graph.initializer.append(whole)
    convert(model)
    model.graph.initializer[0].raw_data = bytes(69_999)
    with pytest.raises(RewriteError, match="69999 bytes of 70000"):
        convert(model)


def functions(*bodies: str) -> onnx.ModelProto:
    """A model that calls the last of the local functions f0, f1, … of these bodies."""
    texts = [f"{FUNCTION} f{number} (x) => (y) {{ {body} }}" for number, body in enumerate(bodies)]
    text = f"g (float[2] x) => (float[2] y) {{ y = local.f{len(bodies) - 1} (x) }}\n"
    return onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17, "local" : 1]>' + text + "\n".join(texts))


def test_a_function_that_calls_itself_is_refused() -> None:
    with pytest.raises(RewriteError, match=r"'local\.f0' calls itself, by way of 'local\.f1'"):
        convert(functions("y = local.f1 (x)", "y = local.f0 (x)"))


def test_functions_that_expand_without_measure_are_counted_and_refused() -> None:
    doubling = [f"a = local.f{number} (x)  y = local.f{number} (a)" for number in range(25)]
    with pytest.raises(RewriteError, match="expand to more than 10000 nodes"):
        convert(functions("y = Relu (x)", *doubling))


def test_functions_nested_too_deep_are_refused_without_recursion() -> None:
    chain = [f"y = local.f{number} (x)" for number in range(3000)]
    with pytest.raises(RewriteError, match="levels deep"):
        convert(functions("y = Relu (x)", *chain))


def test_functions_of_a_dozen_levels_are_taken() -> None:
    model = functions("y = Relu (x)", *[f"y = local.f{number} (x)" for number in range(12)])
    assert Compiler.compile(convert(model)).manifest.outputs[0].name == "y"


def test_a_function_defined_twice_is_refused() -> None:
    model = functions("y = Relu (x)")
    model.functions.append(model.functions[0])
    with pytest.raises(RewriteError, match=r"function 'local\.f0' twice"):
        convert(model)


def test_a_negative_extent_is_an_open_one() -> None:
    model = add_weight()
    for value in [model.graph.input[0], model.graph.output[0]]:
        value.type.tensor_type.shape.dim[0].dim_value = -1
    converter = Converter(check=True, disable_progress_bar=True)
    converted = converter.convert(model)
    assert converter.verification is not None
    assert converter.verification.passed
    assert not any(dim.dim_value < 0 for value in converted.graph.input for dim in value.type.tensor_type.shape.dim)
    assert Compiler.compile(model).manifest.inputs[0].shape == (0, 8)
    fixed = Converter(input_shape={"x": [2, 8]}, disable_progress_bar=True).convert(model)
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == [2, 8]


@pytest.mark.parametrize("indices", [[3, 9], [[0, 3], [1, 1]]], ids=["flat", "coordinates"])
def test_a_sparse_initializer_is_converted_and_compiled(indices: list[object]) -> None:
    model = sparse(indices, [2, 8])
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    converter = Converter(check=True, disable_progress_bar=True)
    converted = converter.convert(model)
    assert converter.verification is not None
    assert converter.verification.passed
    assert not converted.graph.sparse_initializer
    (got,) = ort.InferenceSession(converted.SerializeToString()).run(None, {"x": x})
    assert np.array_equal(got, expected)
    assert Compiler.compile(model) is not None


def sparse(indices: list[object], dims: list[int]) -> onnx.ModelProto:
    model = parse("g (float[2,8] x) => (float[2,8] y) { y = Add (x, w) }")
    values = numpy_helper.from_array(np.array([1.5, -2], np.float32), "w")
    places = numpy_helper.from_array(np.array(indices, np.int64), "w_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, dims))
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (sparse([3, 9], [2**33, 8]), "274877906944 bytes"),
        (sparse([3, 99], [2, 8]), "indices do not fit"),
        (sparse([3, -1], [2, 8]), "indices do not fit"),
        (sparse([[0, 0, 0], [1, 1, 1]], [2, 8]), "indices do not fit"),
        (sparse([3, 9], [0, 8]), "has extents .* export a dense one"),
    ],
    ids=["huge", "beyond", "negative", "rank", "empty"],
)
def test_a_malformed_sparse_initializer_is_refused_by_name(model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(RewriteError, match=f"sparse initializer 'w'.*{words}"):
        convert(model)


def test_a_sparse_constant_is_made_dense_and_computed_with() -> None:
    model = parse("g (float[2, 4] x) => (float[2, 2] y) { w = Constant () y = MatMul (x, w) }")
    values = numpy_helper.from_array(np.array([1, 2], np.float32))
    places = numpy_helper.from_array(np.array([0, 5], np.int64))
    constant = onnx.helper.make_sparse_tensor(values, places, [4, 2])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("sparse_value", constant))
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    for precision, dtype in (("fp32", np.float32), ("fp16", np.float16)):
        converted = Converter(precision=precision).convert(copy_of(model))
        assert [node.op_type for node in converted.graph.node] == ["MatMul"]
        got = run(converted, {"x": feeds["x"].astype(dtype)})["y"]
        np.testing.assert_array_equal(got, run(model, feeds)["y"])
