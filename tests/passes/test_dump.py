"""The model after each pass, as files: which are written, what they hold, and folders that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes import PassManager
from passes.dump import LARGEST_DUMPED, LEFT_OUT, NOTE_KEY
from passes.errors import RewriteError
from tests.passes.rewrites import ops, parse


def model() -> onnx.ModelProto:
    """Something for eliminate_identity to do, and nothing for eliminate_nop_cast."""
    parsed = parse("g (float[n,64] x) => (float[n,64] y) { a = MatMul (x, w)  b = Identity (a)  y = Add (b, small) }")
    arrays = {"w": np.ones((64, 64), np.float32), "small": np.ones(64, np.float32)}
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return parsed


def dumped(folder: Path) -> dict[str, onnx.ModelProto]:
    return {path.name: onnx.load(str(path), load_external_data=False) for path in sorted(folder.iterdir())}


def test_one_numbered_file_for_each_pass_that_changed_something(tmp_path: Path) -> None:
    steps = ["eliminate_nop_cast", "eliminate_identity", "sort_graph", "unique_name_for_nodes"]
    PassManager(steps, dump_dir=tmp_path / "deep" / "dump").run(model())
    files = dumped(tmp_path / "deep" / "dump")
    assert list(files) == ["02_eliminate_identity.onnx", "04_unique_name_for_nodes.onnx"]
    assert ops(files["02_eliminate_identity.onnx"]) == ["MatMul", "Add"]
    assert not any(node.name for node in files["02_eliminate_identity.onnx"].graph.node)
    assert all(node.name for node in files["04_unique_name_for_nodes.onnx"].graph.node)


def test_large_weights_are_left_out_with_a_note_and_small_ones_kept(tmp_path: Path) -> None:
    PassManager(["eliminate_identity"], dump_dir=tmp_path).run(model())
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < LARGEST_DUMPED
    (dump,) = dumped(tmp_path).values()
    tensors = {tensor.name: tensor for tensor in dump.graph.initializer}
    assert [entry.value for entry in tensors["w"].external_data] == [LEFT_OUT]
    assert list(tensors["w"].dims) == [64, 64]
    np.testing.assert_array_equal(numpy_helper.to_array(tensors["small"]), np.ones(64, np.float32))
    assert any(item.key == NOTE_KEY and "left out" in item.value for item in dump.metadata_props)


@pytest.mark.parametrize("as_proto", [False, True])
def test_what_is_dumped_does_not_change_the_result(tmp_path: Path, as_proto: bool) -> None:
    def mine(proto: onnx.ModelProto) -> onnx.ModelProto:
        return proto

    steps = [mine if as_proto else "eliminate_identity", "sort_graph"]
    plain, watched = PassManager(steps).run(model()), PassManager(steps, dump_dir=tmp_path).run(model())
    assert watched.SerializeToString() == plain.SerializeToString()
    assert NOTE_KEY not in {item.key for item in watched.metadata_props}
    assert len(dumped(tmp_path)) == 1


def test_a_pass_that_does_not_say_what_it_did_is_dumped_under_a_name_that_a_file_can_have(tmp_path: Path) -> None:
    PassManager([lambda proto: proto], dump_dir=tmp_path).run(model())
    assert list(dumped(tmp_path)) == ["01__lambda_.onnx"]


def test_weights_in_subgraphs_and_constants_are_left_out_too(tmp_path: Path) -> None:
    conditional = parse(
        "g (bool c, float[64,64] x) => (float[64,64] y) { y = If (c) <then_branch = t () => (float[64,64] p) "
        "{ p = Add (x, inner) }, else_branch = e () => (float[64,64] q) { i = Identity (x)  q = Neg (i) }> }"
    )
    then_branch = conditional.graph.node[0].attribute[0].g
    then_branch.initializer.append(numpy_helper.from_array(np.ones((64, 64), np.float32), "inner"))
    PassManager(["eliminate_identity"], dump_dir=tmp_path).run(conditional)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < LARGEST_DUMPED


@pytest.mark.parametrize("place", ["file", "file/below", "a\0b"])
def test_a_folder_that_cannot_be_used_is_refused_before_any_pass(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RewriteError, match=r"dump_passes: .*cannot be written to .*; give a folder that can"):
        PassManager(["eliminate_identity"], dump_dir=tmp_path / place)


def test_a_file_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "01_eliminate_identity.onnx").mkdir()
    with pytest.raises(RewriteError, match=r"dump_passes: .*cannot be written to"):
        PassManager(["eliminate_identity"], dump_dir=tmp_path).run(model())
