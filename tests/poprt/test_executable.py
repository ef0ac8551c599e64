"""The executable file: what goes in comes out, and nothing changes unseen."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poprt import container
from poprt.errors import DamagedExecutableError, ExecutableError, NewerFormatError, NotAnExecutableError
from poprt.executable import Executable, Manifest, PackingSpec, TensorSpec, WeightSpec, place_weights

PACKING = PackingSpec(
    layout="across_rows",
    rows=2,
    columns=8,
    max_valid_num=5,
    segment_max_size=(3, 5),
    unpack_info="unpack_info",
    dynamic_inputs=("ids", "mask"),
    mask="mask",
    position_ids="",
    outputs={"y": "tokens"},
    ragged=False,
)


#: A model of IR version 8 without a graph.
GRAPH = b"\x08\x08"


def make_executable() -> Executable:
    arrays = {
        "w": np.arange(33, dtype=np.float32).reshape(3, 11),
        "half": np.linspace(-2, 2, 7, dtype=np.float16),
        "flags": np.array([True, False, True]),
        "empty": np.zeros((0, 4), np.int64),
    }
    places = place_weights(arrays)
    weights = tuple(WeightSpec(n, a.shape, a.dtype.name, a.dtype.name, *places[n]) for n, a in arrays.items())
    manifest = Manifest(
        inputs=tuple(
            TensorSpec(name, shape, "int32", "int32")
            for name, shape in {"ids": (2, 8), "mask": (2, 8), "unpack_info": (5, 2)}.items()
        ),
        outputs=(TensorSpec("y", (5, 8), "float16", "float32"),),
        weights=weights,
        packing=PACKING,
        batch_axis=1,
        passes=("float_to_half", "packed_transformer"),
        options={"num_io_tiles": 32},
        versions={"poprt": "0.1.0"},
        opaque_blobs={"HostConcatRunnerConfig": "{}"},
        metadata={"key": "größe"},
        shared_scales=("DynamicQuantizeLinear 'q'",),
    )
    return Executable.build(manifest, GRAPH, arrays)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.popef"
    make_executable().save(path)
    return path


def test_a_saved_executable_loads_as_it_was(saved: Path) -> None:
    executable, loaded = make_executable(), Executable(saved)
    assert loaded.manifest == executable.manifest
    assert loaded.graph == executable.graph
    assert loaded.opaque_blobs == {"HostConcatRunnerConfig": "{}"}
    for spec in executable.manifest.weights:
        np.testing.assert_array_equal(loaded.weight(spec.name), executable.weight(spec.name), strict=True)


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.popef"
    Executable(saved).save(again)
    assert again.read_bytes() == saved.read_bytes()


def test_an_executable_can_be_saved_over_the_file_it_was_loaded_from(saved: Path) -> None:
    before = saved.read_bytes()
    Executable(saved).save(saved)
    assert saved.read_bytes() == before


def test_weights_are_read_only_views_of_the_file(saved: Path) -> None:
    weight = Executable(saved).weight("w")
    assert not weight.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = 1


def test_an_unknown_weight_is_an_error_that_lists_those_stored(saved: Path) -> None:
    with pytest.raises(KeyError, match=r"no stored weight 'v'.*w, half"):
        Executable(saved).weight("v")


def test_zip_tools_read_the_file_and_its_members_are_stored_and_aligned(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        assert archive.namelist() == ["mimetype", "model.onnx", "weights.bin", "manifest.json"]
        assert archive.testzip() is None
        assert archive.read("model.onnx") == GRAPH
        manifest = json.loads(archive.read("manifest.json"))
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert saved.read_bytes().index(archive.read(info.filename)) % 64 == 0
    assert manifest["format_version"] == 1
    assert manifest["members"]["model.onnx"]["bytes"] == len(GRAPH)


def test_members_beyond_the_old_zip_limit_are_aligned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 300)  # stands for 2 GiB
    path = tmp_path / "large.popef"
    make_executable().save(path)
    with zipfile.ZipFile(path) as archive:
        assert path.read_bytes().index(archive.read("weights.bin")) % 64 == 0
    np.testing.assert_array_equal(Executable(path).weight("w"), make_executable().weight("w"))


def test_each_weight_is_aligned_in_its_member() -> None:
    offsets = [spec.offset for spec in make_executable().manifest.weights]
    assert all(offset % 64 == 0 for offset in offsets)
    assert len(set(offsets[:3])) == 3


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_change_of_any_byte_is_noticed(saved: Path, data: st.DataObject) -> None:
    original = saved.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    change = data.draw(st.integers(1, 255))
    altered = saved.with_name("altered.popef")
    altered.write_bytes(original[:position] + bytes([original[position] ^ change]) + original[position + 1 :])
    with pytest.raises(ExecutableError):
        Executable(altered)


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_damaged(saved: Path, data: st.DataObject) -> None:
    original = saved.read_bytes()
    length = data.draw(st.integers(100, len(original) - 1))
    cut = saved.with_name("cut.popef")
    cut.write_bytes(original[:length])
    with pytest.raises(DamagedExecutableError):
        Executable(cut)


def test_bytes_after_the_end_are_noticed(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"more")
    with pytest.raises(DamagedExecutableError):
        Executable(saved)


def test_an_altered_weight_is_named_and_is_not_looked_for_on_request(saved: Path) -> None:
    original = saved.read_bytes()
    at = original.index(np.float32(7).tobytes())
    saved.write_bytes(original[:at] + np.float32(8).tobytes() + original[at + 4 :])
    with pytest.raises(DamagedExecutableError, match=r"weights\.bin"):
        Executable(saved)
    assert Executable(saved, check_hash=False).weight("w").max() == 32


@pytest.mark.parametrize(
    "content", [b"", b"\x08\x07", b"PK\x03\x04", b"x" * 4000], ids=["empty", "onnx", "zip", "long"]
)
def test_something_else_is_not_an_executable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    with pytest.raises(NotAnExecutableError):
        Executable(path)


@pytest.mark.parametrize("manifest", [None, "[]", "{}", '{"format": "other"}', "no json"])
def test_another_zip_file_is_not_an_executable(tmp_path: Path, manifest: str | None) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
        if manifest is not None:
            archive.writestr("manifest.json", manifest)
    with pytest.raises(NotAnExecutableError):
        Executable(path)


def test_a_missing_file_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Executable(tmp_path / "none.popef")


def test_a_newer_format_is_told_from_damage(saved: Path) -> None:
    container.write_container(saved, {}, {}, version=container.FORMAT_VERSION + 1)
    with pytest.raises(NewerFormatError, match=r"version 3.*up to 2"):
        Executable(saved)


def rewritten(path: Path, **changes: object) -> Path:
    """A sealed file whose manifest says something else."""
    executable = make_executable()
    body = {**dataclasses.asdict(executable.manifest), **changes}
    container.write_container(
        path,
        {
            "model.onnx": container.Payload(len(GRAPH), [executable.graph]),
            "weights.bin": container.Payload(320, list(executable._weight_chunks())),
        },
        body,
    )
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1 << 40},
        {"offset": 192, "shape": [40], "nbytes": 160},
        {"nbytes": 4},
        {"dtype": "object"},
        {"offset": 3},
    ],
    ids=["beyond", "over the end", "short", "object", "unaligned"],
)
def test_a_weight_that_does_not_fit_its_member_is_damage(tmp_path: Path, change: dict[str, object]) -> None:
    spec = dataclasses.asdict(make_executable().manifest.weights[0])
    path = rewritten(tmp_path / "m.popef", weights=[{**spec, **change}])
    with pytest.raises(DamagedExecutableError, match="weight 'w'"):
        Executable(path)


def test_a_manifest_without_a_field_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedExecutableError):
        Executable(rewritten(tmp_path / "m.popef", packing={"layout": "across_rows"}))


def test_a_missing_member_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.popef"
    container.write_container(
        path, {"model.onnx": container.Payload(len(GRAPH), [GRAPH])}, dataclasses.asdict(make_executable().manifest)
    )
    with pytest.raises(DamagedExecutableError):
        Executable(path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full_disk(self: Executable) -> object:
        yield b"12"
        raise OSError("no space left")

    monkeypatch.setattr(Executable, "_weight_chunks", full_disk)
    with pytest.raises(OSError, match="no space left"):
        make_executable().save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_weights_and_manifest_have_to_agree() -> None:
    executable = make_executable()
    arrays = {spec.name: executable.weight(spec.name) for spec in executable.manifest.weights}
    with pytest.raises(ValueError, match="other weights"):
        Executable.build(executable.manifest, b"", {})
    with pytest.raises(ValueError, match="weight 'w'"):
        Executable.build(executable.manifest, b"", {**arrays, "w": np.zeros((3, 11), np.float64)})


def test_importing_the_runtime_loads_neither_onnx_nor_the_passes() -> None:
    script = (
        "import sys, poprt, poprt.executable, poprt.runtime, poprt.engine.session, poprt.engine.plain, poprt.utils;"
        "print([name for name in ('onnx', 'passes', 'onnx_graphsurgeon', 'poprt.compiler') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_weights_stay_readable_after_their_pages_went_back(tmp_path: Path) -> None:
    executable = make_executable()
    executable.save(tmp_path / "a.popef")
    loaded = Executable(tmp_path / "a.popef")
    before = {spec.name: loaded.weight(spec.name).copy() for spec in loaded.manifest.weights}
    loaded.release_pages()
    executable.release_pages()  # in memory: nothing to give back
    assert before
    for name, weight in before.items():
        np.testing.assert_array_equal(loaded.weight(name), weight)
