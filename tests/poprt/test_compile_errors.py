"""What the compiler refuses of a model's interface and of its metadata: by name, with what would be taken."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from poprt.compiler import Compiler, CompilerOptions
from poprt.errors import CompileError
from tests.passes.rewrites import parse
from tests.poprt.test_compiler import linear


def test_an_input_of_unknown_type_is_named_and_a_type_helps() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.graph.input[0].type.Clear()
    with pytest.raises(CompileError, match="'x' is not a tensor of known type"):
        Compiler.compile(model)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert Compiler.compile(model)


def test_a_sequence_that_comes_out_is_named() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = SequenceConstruct (x) }")
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(element))
    with pytest.raises(CompileError, match="'y' is not a tensor of known type; the runtime takes and gives tensors"):
        Compiler.compile(model)


def test_a_type_without_a_numpy_form_is_told_what_to_cast_to() -> None:
    model = parse("g (bfloat16[2] x) => (bfloat16[2] y) { y = Neg (x) }")
    with pytest.raises(CompileError, match=r"'x' is of bfloat16; the runtime takes and gives .*float32.* Cast it to"):
        Compiler.compile(model)
    cast = "g (float[2] a) => (float[2] b) { x = Cast <to = 16> (a)  y = Identity (x)  b = Cast <to = 1> (y) }"
    assert Compiler.compile(parse(cast))


@pytest.mark.parametrize("text", ["no json", '{"a": 1}', "[1]"])
def test_damaged_names_of_passes_are_said_to_be_removed(text: str) -> None:
    model = linear()
    onnx.helper.set_model_props(model, {"poprt.passes": text})
    with pytest.raises(CompileError, match=r"metadata 'poprt.passes' are damaged: no list of names; remove them"):
        Compiler.compile(model)
    del model.metadata_props[:]
    assert Compiler.compile(model).manifest.passes == ()


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("custom_ops", [3], "expected paths of libraries"),
        ("opaque_blobs", {"a": 1}, "must map texts to texts"),
        ("num_io_tiles", "many", "is 'many'; expected int"),
    ],
)
def test_an_option_says_what_it_takes(name: str, wrong: object, expected: str) -> None:
    with pytest.raises(CompileError, match=f"'{name}'.*{expected}"):
        CompilerOptions(**{name: wrong})
