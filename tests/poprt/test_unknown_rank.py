"""Inputs and outputs whose rank the model does not say: any shape is taken, none is made up, nothing is a scalar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import PackingError
from passes.graph_io import import_graph
from poprt import Compiler, Converter, backend, runtime
from poprt.errors import ExecutableError, PoprtError
from poprt.executable import Executable
from poprt.profile import get_model_flops
from poprt.runtime.declared import DeclaredSession
from poprt.sample_data import model_inputs
from poprt.utils import get_input_info_from_model_proto
from poprt_cli.executor import cli as poprt_exec
from poprt_cli.main import cli as poprt
from tests.passes.test_unnamed_extents import model, rank_of_the_run, relu

SHAPES = {name: [3, 8] for name in ("input_ids", "attention_mask", "token_type_ids")}
LAYOUTS: dict[str, dict[str, Any]] = {
    "across_rows": {"pack_args": {"max_valid_num": 5, "segment_max_size": 8}},
    "within_rows": {"used_passes": ["insert_attention_mask"]},
}


def run(command: Any, *words: object) -> Result:
    result = CliRunner().invoke(command, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def bert(*, ranks: bool) -> onnx.ModelProto:
    """A BERT whose inputs have extents without names, or no rank; its outputs say their names as before."""
    built = build_bert(BertConfig(**SIZES["tiny"], head="qa"))
    for value in built.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
        if not ranks:
            value.type.tensor_type.ClearField("shape")
    return built


@pytest.mark.parametrize("shape", [(2, 3), (4,), (), (1, 2, 1, 2)])
def test_an_input_of_unknown_rank_takes_any_shape(shape: tuple[int, ...]) -> None:
    executable = Compiler.compile(relu(None, None))
    x = np.full(shape, 3, np.float32)
    np.testing.assert_array_equal(DeclaredSession(executable).run({"x": x})[0], x)
    buffer = np.zeros_like(x)
    with runtime.ModelRunner(executable) as runner:
        runner.execute({"x": x}, {"y": buffer})
    np.testing.assert_array_equal(buffer, x)


def test_descriptions_tell_an_unknown_rank_from_a_scalar() -> None:
    with runtime.ModelRunner(Compiler.compile(relu(None, None))) as runner:
        descs = [*runner.get_execute_inputs(), *runner.get_execute_outputs()]
    assert [(desc.shape, desc.any_rank) for desc in descs] == [(None, True)] * 2
    assert "shape=None" in repr(descs[0])
    with runtime.ModelRunner(Compiler.compile(relu([], []))) as runner:
        assert [(desc.shape, desc.any_rank) for desc in runner.get_execute_inputs()] == [([], False)]


@pytest.mark.parametrize("kind", ["poprt", "onnxruntime"])
@pytest.mark.parametrize("as_file", [False, True])
def test_sessions_tell_an_unknown_rank_from_a_scalar(kind: str, as_file: bool, tmp_path: Path) -> None:
    mixed = model([helper.make_node("Add", ["x", "one"], ["y"])], None, None, scalar())
    onnx.save(mixed, str(tmp_path / "model.onnx"))
    session = backend.get_session(tmp_path / "model.onnx" if as_file else mixed, backend=kind).load()
    inputs, outputs = session.get_io_info()
    assert [shape for shape, _ in inputs.values()] == [None, []]
    assert [shape for shape, _ in outputs.values()] == [None]


def scalar() -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("one", onnx.TensorProto.FLOAT, [])


def test_what_reads_a_model_says_that_a_rank_is_unknown(tmp_path: Path) -> None:
    declared = relu(None, None)
    assert get_input_info_from_model_proto(declared)[0] == {"x": None}
    assert [info.any_rank for info in model_inputs(declared)] == [True]
    with pytest.raises(PoprtError, match="'x' has an open extent"):
        get_model_flops(declared)
    onnx.save(declared, str(tmp_path / "model.onnx"))
    shown = run(poprt, "-i", tmp_path / "model.onnx", "--show").stdout
    assert shown.splitlines() == [f"{what}: dtype - float32, shape - of any rank" for what in ("Input x", "Output y")]


@pytest.mark.parametrize("which", ["input", "output"])
def test_a_batch_size_needs_a_rank(which: str) -> None:
    executable = Compiler.compile(relu(None, None) if which == "input" else rank_of_the_run())
    with pytest.raises(PoprtError, match="does not say the rank of"):
        runtime.ModelRunner(executable, runtime.RuntimeConfig(batching_dim=0))


def test_sample_data_needs_a_rank_and_takes_the_one_that_is_given() -> None:
    with pytest.raises(PoprtError, match=r"input 'x': the model does not say its rank.*--input_shape x="):
        Converter(check=True).convert(relu(None, None))
    converter = Converter(check=True, input_shape={"x": [2, 3]})
    converted = converter.convert(relu(None, None))
    assert [len(value.type.tensor_type.shape.dim) for value in converted.graph.input] == [2]
    assert converter.verification is not None
    assert converter.verification.passed


def test_an_executable_is_timed_where_its_inputs_say_their_rank(tmp_path: Path) -> None:
    for name, built in (("inputs", relu(None, None)), ("outputs", voice())):
        Compiler.compile(built).save(tmp_path / name)
    refused = run(poprt_exec, "poprt_run_popef", "--popef", tmp_path / "inputs", "--iteration", 1)
    assert refused.exit_code == 1
    assert "'x': the executable does not say its rank" in refused.output
    timed = run(poprt_exec, "poprt_run_popef", "--popef", tmp_path / "outputs", "--iteration", 2)
    assert timed.exit_code == 0
    assert "iterations: 2" in timed.stdout


def voice() -> onnx.ModelProto:
    """One output has an extent that values decide, the other a rank that values decide."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["y"]),
        helper.make_node("Gather", ["sizes", "first"], ["chosen"]),
        helper.make_node("Reshape", ["x", "chosen"], ["z"]),
        helper.make_node("Squeeze", ["places"], ["first"]),
        helper.make_node("NonZero", ["sizes"], ["places"]),
    ]
    built = model([nodes[0], nodes[4], nodes[3], nodes[1], nodes[2]], [4, 2], None)
    built.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    built.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    built.graph.initializer.append(helper.make_tensor("sizes", onnx.TensorProto.INT64, [2], [2, 4]))
    return built


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ranks", [True, False])
def test_inputs_without_names_or_rank_are_packed_in_the_shapes_that_are_given(
    layout: str, ranks: bool, tmp_path: Path
) -> None:
    converter = Converter(input_shape=SHAPES, check=True, **LAYOUTS[layout])
    converted = converter.convert(bert(ranks=ranks))
    assert converter.verification is not None
    assert converter.verification.passed
    Compiler.compile(converted).save(tmp_path / "model.popef")
    loaded = Executable(tmp_path / "model.popef")
    rows = 3 if layout == "within_rows" else 5
    assert [spec.shape for spec in loaded.outputs] == [(rows, 8)] * 2
    assert {spec.shape for spec in loaded.inputs if spec.name != "unpack_info"} == {(3, 8)}


def test_packing_says_whose_rank_it_lacks() -> None:
    with pytest.raises(PackingError, match="does not say the rank of 'input_ids': give its input_shape"):
        Converter(pack_args={"max_valid_num": 5, "segment_max_size": 8}).convert(bert(ranks=False))


def test_marks_in_the_branches_of_a_local_function_are_unnamed() -> None:
    branches = {
        f"{kind}_branch": helper.make_graph(
            [helper.make_node(op, ["a"], [kind])],
            kind,
            [],
            [helper.make_tensor_value_info(kind, onnx.TensorProto.FLOAT, ["?", -1])],
        )
        for kind, op in (("then", "Relu"), ("else", "Neg"))
    }
    opsets = [helper.make_opsetid("", 17)]
    body = [helper.make_node("If", ["c"], ["b"], **branches)]
    built = model([helper.make_node("f", ["x", "c"], ["y"], domain="local")], ["?", 2], ["?", 2])
    built.graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    built.functions.append(helper.make_function("local", "f", ["a", "c"], ["b"], body, opsets))
    built.opset_import.append(helper.make_opsetid("local", 1))
    (function,) = import_graph(built).functions
    assert [part.outputs[0].shape for part in function.nodes[0].subgraphs()] == [[None, None]] * 2


def test_an_output_that_the_model_declares_wrongly_is_named_with_a_way_out_that_works() -> None:
    declared_wrongly = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[3] x) => (float[3] y) <int64[3] extents = {3, 1, 1}>
        {
            nothing = IsNaN(x)
            numbers = Not(nothing)
            shape = Compress<axis = 0>(extents, numbers)
            y = Reshape(x, shape)
        }
    """)
    feeds = {"x": np.ones(3, np.float32)}
    with pytest.raises(ExecutableError, match=r"output 'y': .* shape \[3, 1, 1\], .* declares \[3\] .* leave it out"):
        DeclaredSession(Compiler.compile(declared_wrongly, None)).run(feeds)
    declared_wrongly.graph.output[0].type.tensor_type.ClearField("shape")
    (y,) = DeclaredSession(Compiler.compile(declared_wrongly, None)).run(feeds)
    assert y.shape == (3, 1, 1)
