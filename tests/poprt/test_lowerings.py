"""The compiler's passes one by one: what each changes, that a second run changes nothing, and how they are watched."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from models.bert import SIZES, BertConfig, build_bert
from passes.base import GraphPass
from passes.errors import RewriteError
from passes.graph_io import export_graph, import_graph
from passes.ipu_operators import AttachBodies
from passes.ops import DOMAIN
from passes.precision.unsign_weights import UnsignWeights
from poprt.compiler import Compiler, CompilerOptions
from poprt.compiler.fuse_int8 import FuseInt8
from poprt.compiler.interface import ReadInterface
from poprt.compiler.key_flips import FlipKeys
from poprt.compiler.lower_half import LowerHalf
from poprt.compiler.mend_types import MendTypes
from poprt.compiler.normalise import KeepOutputs, NameNodes, WidenNarrowArithmetic
from poprt.errors import CompileError
from tests.passes.rewrites import copy_of, ops, parse, rewritten

TWO = "g (float[2] x) => (float[2] y, float[2] z) { a = Relu (x)  y = Neg (a)  b = Abs (x)  z = Exp (b) }"


def counts(step: GraphPass, model: onnx.ModelProto) -> dict[str, int]:
    return step.apply(import_graph(copy_of(model))).counts


def test_outputs_are_dropped_and_moved_with_what_they_alone_need() -> None:
    assert ops(rewritten(KeepOutputs(["z"]), parse(TWO))) == ["Abs", "Exp"]
    moved = rewritten(KeepOutputs(["z", "y"]), parse(TWO))
    assert [value.name for value in moved.graph.output] == ["z", "y"]
    assert len(moved.graph.node) == 4
    assert counts(KeepOutputs(["y"]), parse(TWO)) == {"outputs dropped": 1, "nodes dropped": 2}
    assert counts(KeepOutputs(["y", "z"]), parse(TWO)) == {}


def test_nodes_without_a_name_are_named_by_what_they_make() -> None:
    model = parse(TWO)
    model.graph.node[0].name = "mine"
    assert [node.name for node in rewritten(NameNodes(), model).graph.node] == ["mine", "Neg:y", "Abs:b", "Exp:z"]
    assert counts(NameNodes(), model) == {"nodes named": 3}


def test_narrow_arithmetic_is_widened_in_subgraphs_too_and_wide_is_left_alone() -> None:
    text = """g (int8[2] x, int32[2] v, bool c) => (int8[2] y, int8[2] z, int32[2] w) {
        y = Add (x, x)  w = Add (v, v)
        z = If (c) <then_branch = t () => (int8[2] p) { p = Mul (x, y) }, else_branch = e () => (int8[2] q)
        { q = Sub (y, x) }> }"""
    widened = rewritten(WidenNarrowArithmetic(), parse(text, opset=13))
    assert ops(widened) == ["Cast", "Cast", "Add", "Cast", "Add", "If"]
    branches = [attribute.g for attribute in widened.graph.node[-1].attribute]
    assert [ops(branch).count("Cast") for branch in branches] == [3, 3]
    assert counts(WidenNarrowArithmetic(), parse(text, opset=13)) == {"nodes widened": 3}
    assert counts(WidenNarrowArithmetic(), parse(text, opset=14)) == {}


def test_declarations_are_mended_and_each_output_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = parse("g (float[2] x) => (float16[3] y) <float16[2] a> { a = Relu (x)  y = Concat <axis = 0> (a, x) }")
    with caplog.at_level(logging.WARNING, "poprt"):
        graph = import_graph(model)
        corrected = MendTypes().apply(graph).counts
    assert corrected == {"output types corrected": 1, "output shapes corrected": 1, "inner types corrected": 1}
    assert "'y' is declared FLOAT16 but computed as FLOAT" in caplog.text
    mended = export_graph(graph)
    onnx.checker.check_model(mended, full_check=True)
    assert [dim.dim_value for dim in mended.graph.output[0].type.tensor_type.shape.dim] == [4]
    assert not MendTypes().apply(graph).modified


def test_bodies_are_attached_in_subgraphs_too_and_the_opset_is_raised_for_them() -> None:
    node = helper.make_node("AttentionMask", ["mask", "x"], ["m"], domain=DOMAIN, dataType="FLOAT")
    text = """g (int32[1,4] mask, float[1,4] x, bool c) => (float y) { y = If (c) <
        then_branch = t () => (float[1,1,4,4] m) { m = Identity (x) },
        else_branch = e () => (float[1,4] q) { q = Neg (x) }> }"""
    model = parse(text, opset=13)
    branch = model.graph.node[0].attribute[0].g
    del branch.node[:]
    branch.node.append(node)
    with_bodies = rewritten(AttachBodies(), model, full_check=False)
    assert [(function.domain, function.name) for function in with_bodies.functions] == [(DOMAIN, "AttentionMask")]
    assert next(item.version for item in with_bodies.opset_import if item.domain == "") == 15
    assert counts(AttachBodies(), parse(TWO)) == {}


def test_an_operator_of_our_domain_that_is_not_known_is_refused() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = ai.graphcore.Pack (x) }")
    with pytest.raises(RewriteError, match=r"ai\.graphcore\.Pack is not known"):
        AttachBodies().run(model)
    with pytest.raises(CompileError, match=r"pass 'attach_bodies': .*ai\.graphcore\.Pack is not known"):
        Compiler.compile(model)


def test_the_interface_is_noted_as_it_is_declared_and_nothing_is_changed() -> None:
    model = parse(
        "g (int64[n] ids, float16[2] x) => (float16[2] y) <float16[3, 2] table = {0,0,0,0,0,0}>"
        "{ r = Gather (table, ids)  s = ReduceSum <keepdims = 0> (r, axis)  y = Add (x, s) }"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "axis"))
    step = ReadInterface()
    assert not step.apply(import_graph(model)).modified
    assert [(spec.name, spec.shape, spec.dtype, spec.id_limit) for spec in step.inputs] == [
        ("ids", (0,), "int64", 3),
        ("x", (2,), "float16", 0),
    ]
    assert [(spec.name, spec.dtype) for spec in step.outputs] == [("y", "float16")]
    with pytest.raises(CompileError, match="'x' holds strings"):
        Compiler.compile(parse("g (string[2] x) => (string[2] y) { y = Identity (x) }"))


@pytest.mark.parametrize("step", [LowerHalf(), UnsignWeights(), FuseInt8(), FlipKeys()], ids=lambda step: step.name)
def test_a_lowering_that_finds_nothing_says_so(step: GraphPass) -> None:
    assert counts(step, build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1}, head="qa"))) == {}


def test_the_lowerings_are_dumped_and_the_executable_is_the_same(tmp_path: Path) -> None:
    model = parse(TWO)
    Compiler.compile_and_export(model, ["y"], tmp_path / "plain.popef")
    options = CompilerOptions(dump_passes=str(tmp_path / "dump"))
    Compiler.compile_and_export(model, ["y"], tmp_path / "watched.popef", options)
    assert (tmp_path / "watched.popef").read_bytes() == (tmp_path / "plain.popef").read_bytes()
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert names == ["01_keep_outputs.onnx", "03_name_nodes.onnx", "07_open_batch.onnx"]
    assert ops(onnx.load(str(tmp_path / "dump" / names[0]))) == ["Relu", "Neg"]


def test_a_folder_for_dumps_that_cannot_be_used_is_a_compile_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CompileError, match=r"dump_passes: .*file.* cannot be written to"):
        Compiler.compile(parse(TWO), None, CompilerOptions(dump_passes=tmp_path / "file"))
    with pytest.raises(CompileError, match="'dump_passes' is 3; expected str or Path"):
        CompilerOptions(dump_passes=3)


def test_each_lowering_is_timed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "poprt"):
        Compiler.compile(parse(TWO), ["y"])
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("pass ")]
    assert lines[0].startswith("pass keep_outputs: ")
    assert "outputs dropped" in lines[0]
    assert len(lines) >= 8


def test_a_bug_of_ours_keeps_its_type_where_weights_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are kept elsewhere are not taken for weights that were not loaded."""

    def fail(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(MendTypes, "apply", fail)
    with pytest.raises(KeyError):
        Compiler.compile(build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1}, head="qa")))
