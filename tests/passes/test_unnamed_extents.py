"""An extent that is open and unnamed (``?``, no name, a negative number) is never the same as another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from passes.errors import RewriteError
from passes.extents import open_unnamed
from passes.graph_io import import_graph
from passes.onnx_helper import get_shape
from poprt import Compiler, Converter, runtime
from poprt.errors import DamagedExecutableError, PoprtError
from poprt.executable import Executable
from poprt.manifest_rules import check_manifest
from poprt.profile import get_model_flops
from poprt.runtime.declared import DeclaredSession
from poprt.sample_data import tensor_shape
from poprt.utils import get_input_info_from_model_proto

Dims = Sequence[int | str | None] | None

MARKS = ["?", "", "-1", " ? ", -1, -7, None]


def relu(x: Dims, y: Dims) -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], x, y)


def model(nodes: list[onnx.NodeProto], x: Dims, y: Dims, *extra: onnx.ValueInfoProto) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", [values[0], *extra], [values[1]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rank_of_the_run() -> onnx.ModelProto:
    """A Reshape to as many axes as the input ``counts`` has places that are not 0: no inference knows the rank."""
    nodes = [
        helper.make_node("NonZero", ["counts"], ["places"]),
        helper.make_node("Squeeze", ["places", "zero"], ["first"]),
        helper.make_node("Gather", ["counts", "first"], ["chosen"]),
        helper.make_node("Reshape", ["x", "chosen"], ["y"]),
    ]
    counts = helper.make_tensor_value_info("counts", TensorProto.INT64, [3])
    built = model(nodes, [4, 2], None, counts)
    built.graph.initializer.append(helper.make_tensor("zero", TensorProto.INT64, [1], [0]))
    return built


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_is_an_extent_without_a_name(mark: int | str | None) -> None:
    assert open_unnamed(mark) is None


@pytest.mark.parametrize("extent", [0, 3, "batch", "unk__1", "a-1", "n?"])
def test_other_extents_stay(extent: int | str) -> None:
    assert open_unnamed(extent) == extent


@pytest.mark.parametrize("mark", MARKS)
def test_two_unnamed_extents_get_different_numbers(mark: int | str | None) -> None:
    converted = Converter(input_shape={"x": [48, 192]}).convert(relu([mark, mark], [mark, mark]))
    assert get_shape(converted.graph, "x") == get_shape(converted.graph, "y") == [48, 192]


def test_one_name_still_gets_one_number() -> None:
    with pytest.raises(RewriteError, match="dimension 'n' would be 48"):
        Converter(input_shape={"x": [48, 192]}).convert(relu(["n", "n"], ["n", "n"]))


def test_the_extents_of_a_branch_are_unnamed_too() -> None:
    branches = {
        f"{kind}_branch": helper.make_graph(
            [helper.make_node(op, ["x"], [kind])],
            kind,
            [],
            [helper.make_tensor_value_info(kind, TensorProto.FLOAT, ["?", -1])],
        )
        for kind, op in (("then", "Relu"), ("else", "Neg"))
    }
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = import_graph(model([helper.make_node("If", ["c"], ["y"], **branches)], ["?", "?"], ["?", "?"], condition))
    nested = list(graph.nodes[0].subgraphs())
    assert [output.shape for part in nested for output in part.outputs] == [[None, None]] * 2
    assert [graph.inputs[0].shape, graph.outputs[0].shape] == [[None, None]] * 2


@pytest.mark.parametrize("mark", MARKS)
def test_what_reads_a_model_says_open(mark: int | str | None) -> None:
    declared = relu([mark, 2], [mark, 2])
    assert tensor_shape(declared.graph.input[0]) == (None, 2)
    assert get_shape(declared.graph, "x") == [0, 2]
    assert get_input_info_from_model_proto(declared)[0] == {"x": [0, 2]}
    with pytest.raises(PoprtError, match="'x' has an open extent"):
        get_model_flops(declared)


@pytest.mark.parametrize("mark", MARKS)
def test_an_open_output_takes_any_extent(mark: int | str | None) -> None:
    executable = Compiler.compile(relu([4, 2], [mark, 2]))
    x = np.full((4, 2), 3, np.float32)
    buffer = np.zeros((4, 2), np.float32)
    runtime.ModelRunner(executable).execute({"x": x}, {"y": buffer})
    np.testing.assert_array_equal(buffer, x)


def test_an_output_without_a_shape_gets_the_inferred_one() -> None:
    executable = Compiler.compile(relu([4, 2], None))
    assert [(spec.shape, spec.any_rank) for spec in executable.outputs] == [((4, 2), False)]


@pytest.mark.parametrize("counts", [[4, 2, 0], [2, 2, 2], [8, 0, 0]])
def test_an_output_of_unknown_rank_is_no_scalar(counts: list[int]) -> None:
    executable = Compiler.compile(rank_of_the_run())
    assert [(spec.shape, spec.any_rank) for spec in executable.outputs] == [((), True)]
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(4, 2), "counts": np.array(counts)}
    want = feeds["x"].reshape([n for n in counts if n])
    np.testing.assert_array_equal(DeclaredSession(executable).run(feeds)[0], want)
    buffer = np.zeros_like(want)
    runtime.ModelRunner(executable).execute(feeds, {"y": buffer})
    np.testing.assert_array_equal(buffer, want)


def test_an_executable_keeps_that_a_rank_is_unknown(tmp_path: Path) -> None:
    executable = Compiler.compile(rank_of_the_run())
    executable.save(tmp_path / "model.popef")
    assert [spec.any_rank for spec in Executable(tmp_path / "model.popef").outputs] == [True]


def test_a_manifest_that_gives_a_shape_of_any_rank_is_damaged() -> None:
    executable = Compiler.compile(relu([4, 2], [4, 2]))
    output = replace(executable.outputs[0], any_rank=True)
    with pytest.raises(DamagedExecutableError, match=r"outputs.y.shape.*any rank"):
        check_manifest(replace(executable.manifest, outputs=(output,)), file_bytes=1 << 20, weight_bytes=0)
