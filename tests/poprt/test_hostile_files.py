"""Executables are input from strangers: what their bytes and manifests say is checked before it is believed."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poprt.container_reader import MANIFEST_LIMIT
from poprt.errors import DamagedExecutableError, ExecutableError, NotAnExecutableError
from poprt.executable import Executable, Manifest, PackingSpec, TensorSpec, WeightSpec
from poprt.manifest_rules import TENSOR_ALLOWANCE, TENSOR_BYTES_A_FILE_BYTE
from tests.fuzz.files import head, sealed

GRAPH = b"\x08\x08"
WEIGHTS = bytes(64)

MANIFEST = Manifest(
    inputs=tuple(
        TensorSpec(n, s, "int32", "int32") for n, s in {"ids": (2, 8), "mask": (2, 8), "info": (5, 1)}.items()
    ),
    outputs=(TensorSpec("y", (5, 8, 3), "float16", "float32"), TensorSpec("p", (5, 2), "float32", "float32")),
    weights=(WeightSpec("w", (4,), "float16", "float32", 0, 8),),
    packing=PackingSpec(
        layout="across_rows",
        rows=2,
        columns=8,
        max_valid_num=5,
        segment_max_size=(8,),
        unpack_info="info",
        dynamic_inputs=("ids", "mask"),
        mask="mask",
        position_ids="",
        outputs={"y": "tokens", "p": "sample"},
        ragged=True,
    ),
)


def body(change: Callable[[dict[str, Any]], object] | None = None) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(MANIFEST)))
    if change is not None:
        change(fields)
    return fields


def load(tmp_path: Path, data: bytes) -> Executable:
    path = tmp_path / "m.popef"
    path.write_bytes(data)
    return Executable(path)


def test_what_the_tests_change_loads_unchanged(tmp_path: Path) -> None:
    assert load(tmp_path, sealed(body(), GRAPH, WEIGHTS)).manifest == MANIFEST


def put(field: str, value: object) -> Callable[[dict[str, Any]], object]:
    *way, last = [int(part) if part.isdigit() else part for part in field.split(".")]

    def change(fields: dict[str, Any]) -> None:
        place: Any = fields
        for part in way:
            place = place[part]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("inputs", value) for value in (None, [], {}, [None], "x", 1)),
        *(("outputs", value) for value in ([], [None])),
        *(("inputs.0.name", value) for value in ("", None, "mask", "w", "\ud800")),
        *(("inputs.0.dtype", value) for value in ("x", None, "bfloat16", "V1000000000")),
        *(("inputs.0.shape", value) for value in (["x", 3_000_000_000], None, [-1, 8], [2, 9], [2**64 - 1], [2.0, 8])),
        *(("outputs.0.shape", value) for value in ([5, 8, 2**40], [5, 9, 3], [5], [1] * 40, [0, 8, 3])),
        ("outputs.1.shape", [6, 2]),
        *(("weights", value) for value in (None, [None], [{}])),
        *(("weights.0.shape", value) for value in (["x", 3_000_000_000], [3], [2, True], [-4], [0, 2**60, 2**60])),
        *(("weights.0.dtype", value) for value in ("x", "object", "int8", None)),
        *(("weights.0.engine_dtype", value) for value in ("float64", "int32", None)),
        *(("weights.0.offset", value) for value in (64, 3, -64, 1 << 40, "0")),
        ("weights.0.constant", 1),
        *(("packing", value) for value in ({}, [], {"layout": "across_rows"}, "x")),
        *(("packing.rows", value) for value in ("x", 0, -1, 2**31, 2**40, True, 2.0)),
        *(("packing.columns", value) for value in (None, 7, 2**31)),
        *(("packing.max_valid_num", value) for value in (0, 6, 2**40)),
        *(("packing.segment_max_size", value) for value in ([], [0], [2**40], ["x"], [4, 4], None)),
        *(("packing.layout", value) for value in ("", "within_rows", "attention_mask", None)),
        *(("packing.neighbours", value) for value in ("all", None, 0)),
        ("packing.isolation", None),
        *(("packing.outputs", value) for value in ({}, {"y": "tokens"}, {"y": "tokens", "z": "sample"}, [])),
        *(("packing.outputs.y", value) for value in ("packed", "x", None)),
        *(("packing.dynamic_inputs", value) for value in ([], ["ids", "ids"], ["ids", "info"], ["z"], "ids")),
        *(("packing.mask", value) for value in ("z", None)),
        *(("packing.unpack_info", value) for value in ("", "z", "ids")),
        ("packing.position_ids", "z"),
        ("packing.ragged", None),
        *(("packing.equal_lengths_cheaper", value) for value in (None, 1)),
        *(("packing.width_multiple", value) for value in (None, 0, -16, 2.0, "16")),
        *(("batch_axis", value) for value in (-1, 99, None)),
        *(("passes", value) for value in (None, [1], "x")),
        *(("metadata", value) for value in (None, {"a": 1})),
        *(("shared_scales", value) for value in (None, "x", [1])),
        ("options", []),
        ("versions", {"poprt": None}),
        ("opaque_blobs", {"a": []}),
        ("format_version", True),
        ("members", []),
        ("members", {"model.onnx": None, "weights.bin": None}),
        ("more", 1),
        ("inputs.0.more", 1),
    ],
)
def test_a_manifest_that_lies_is_one_error_that_names_the_field(tmp_path: Path, field: str, value: object) -> None:
    fields = {**head({"model.onnx": GRAPH, "weights.bin": WEIGHTS}), **body()}
    put(field, value)(fields)
    with pytest.raises(DamagedExecutableError) as raised:
        load(tmp_path, sealed(json.dumps(fields).encode(), GRAPH, WEIGHTS))
    message = str(raised.value)
    assert len(message) < 1000
    assert field.split(".")[0].removesuffix("s") in message.replace("format version", "format_version")


OPERATORS = {
    "apart_in_rows": True,
    "masks": ["mask"],
    "lengths": ["info"],
    "max_valid_num": 5,
    "segment_max_size": [8],
    "unpacked": ["y"],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("masks", value) for value in (["z"], ["mask", "mask"], None, "mask")),
        *(("lengths", value) for value in (["y"], [1])),
        *(("unpacked", value) for value in (["ids"], ["z"])),
        *(("segment_max_size", value) for value in ([0], [2**40], [-1], 8)),
        *(("max_valid_num", value) for value in (2**40, -1, None)),
        ("apart_in_rows", 1),
        ("more", 1),
    ],
)
def test_operators_that_lie_are_an_error_that_names_the_field(tmp_path: Path, field: str, value: object) -> None:
    fields = body(lambda fields: fields.update(packing=None, pack_operators={**OPERATORS, field: value}))
    with pytest.raises(DamagedExecutableError, match=rf"pack_operators[.\w]*{field}"):
        load(tmp_path, sealed(fields, GRAPH, WEIGHTS))


def test_operators_are_told_only_where_the_packing_is_not(tmp_path: Path) -> None:
    apart = body(lambda fields: fields.update(packing=None, pack_operators=OPERATORS))
    assert load(tmp_path, sealed(apart, GRAPH, WEIGHTS)).manifest.pack_operators is not None
    both = body(lambda fields: fields.update(pack_operators=OPERATORS))
    with pytest.raises(DamagedExecutableError, match="pack_operators"):
        load(tmp_path, sealed(both, GRAPH, WEIGHTS))


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedExecutableError, match=r"inputs\[1\]\.'?shape"):
        load(tmp_path, sealed(body(lambda fields: fields["inputs"][1].pop("shape")), GRAPH, WEIGHTS))


def test_only_a_ragged_pack_may_say_that_equal_lengths_cost_less(tmp_path: Path) -> None:
    fields = body(lambda fields: fields["packing"].update(ragged=False, equal_lengths_cheaper=True))
    with pytest.raises(DamagedExecutableError, match=r"packing\.equal_lengths_cheaper"):
        load(tmp_path, sealed(fields, GRAPH, WEIGHTS))


def test_only_a_ragged_pack_may_be_unpacked_to_multiples(tmp_path: Path) -> None:
    fields = body(lambda fields: fields["packing"].update(ragged=False, width_multiple=16))
    with pytest.raises(DamagedExecutableError, match=r"packing\.width_multiple"):
        load(tmp_path, sealed(fields, GRAPH, WEIGHTS))


def test_fields_that_came_later_may_be_missing(tmp_path: Path) -> None:
    fields = body(
        lambda fields: [
            fields["packing"].pop(name)
            for name in ("neighbours", "isolation", "equal_lengths_cheaper", "width_multiple")
        ]
    )
    assert load(tmp_path, sealed(fields, GRAPH, WEIGHTS)).packing == MANIFEST.packing


def test_a_weight_may_not_be_listed_twice_nor_lie_over_another(tmp_path: Path) -> None:
    weight = body()["weights"][0]
    for second in (weight, {**weight, "name": "v"}, {**weight, "name": "ids", "offset": 64}):
        with pytest.raises(DamagedExecutableError, match="weight"):
            load(tmp_path, sealed(body(put("weights", [weight, second])), GRAPH, bytes(128)))


def test_declared_tensors_grow_with_the_file(tmp_path: Path) -> None:
    most = TENSOR_ALLOWANCE + TENSOR_BYTES_A_FILE_BYTE * 4000
    shape = [5, 8, most // (5 * 8 * 4)]
    with pytest.raises(DamagedExecutableError, match=r"outputs\.y\.shape"):
        load(tmp_path, sealed(body(put("outputs.0.shape", shape)), GRAPH, bytes(64)))
    assert load(tmp_path, sealed(body(put("outputs.0.shape", shape)), GRAPH, bytes(8000))).outputs[0].shape[2] > 10**6


def test_what_could_not_be_loaded_is_not_written(tmp_path: Path) -> None:
    for manifest, graph in (
        (dataclasses.replace(MANIFEST, opaque_blobs={"a": "x" * MANIFEST_LIMIT}), GRAPH),
        (dataclasses.replace(MANIFEST, batch_axis=99), GRAPH),
        (dataclasses.replace(MANIFEST, passes=(1,)), GRAPH),  # type: ignore[arg-type]
        (MANIFEST, b"no graph"),
    ):
        executable = Executable.build(manifest, graph, {"w": np.zeros(4, np.float16)})
        with pytest.raises(ExecutableError, match="not written"):
            executable.save(tmp_path / "m.popef")
    assert os.listdir(tmp_path) == []


BOMB = json.dumps({**head({"model.onnx": GRAPH, "weights.bin": WEIGHTS}), "x": " " * (32 << 20)}).encode()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED])
def test_a_manifest_is_bounded_before_it_is_read(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "m.popef"
    path.write_bytes(sealed(BOMB, GRAPH, WEIGHTS, compression=compression))
    tracemalloc.start()
    with pytest.raises(DamagedExecutableError, match=r"compressed|bytes, at most"):
        Executable(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "manifest",
    [b"[" * 100_000, b'{"a":' * 50_000, b'{"format_version": ' + b"9" * 100_000 + b"}", b"\xff\xfe", b"{}", b"[]", b""],
)
def test_a_manifest_that_is_no_manifest(tmp_path: Path, manifest: bytes) -> None:
    with pytest.raises(DamagedExecutableError):
        load(tmp_path, sealed(manifest, GRAPH, WEIGHTS))


@pytest.mark.parametrize("piece", [b'{"":0},', b"[],", b'"ab",', b'{"":[0]},'])
def test_the_largest_manifest_stays_within_bounds_when_it_is_parsed(tmp_path: Path, piece: bytes) -> None:
    items = piece * ((MANIFEST_LIMIT - 1000) // len(piece))
    data = sealed(b'{"format_version": 1, "x": [' + items[:-1] + b"]}", GRAPH, WEIGHTS)
    path = tmp_path / "m.popef"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(DamagedExecutableError):
        Executable(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(data) + (64 << 20)


def test_a_long_directory_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(DamagedExecutableError, match="directory has"):
        load(tmp_path, sealed(body(), GRAPH, WEIGHTS, extra={f"{i:050}": b"" for i in range(3000)}))


def test_a_member_may_not_be_compressed_encrypted_or_there_twice(tmp_path: Path) -> None:
    good = sealed(body(), GRAPH, WEIGHTS)
    at = good.index(b"PK\x01\x02", good.index(b"manifest.json"))
    for offset, value, text in ((8, b"\x01", "encrypted"), (10, b"\x08", "compressed")):
        with pytest.raises(DamagedExecutableError, match=text):
            load(tmp_path, good[: at + offset] + value + good[at + offset + 1 :])
    with pytest.warns(UserWarning, match="Duplicate"):
        data = sealed(body(), GRAPH, WEIGHTS, extra={"mimetype ": b"", "manifest.json": b""})
    with pytest.raises(DamagedExecutableError, match="twice"):
        load(tmp_path, data)


def test_more_members_than_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedExecutableError, match="extra"):
        load(tmp_path, sealed(body(), GRAPH, WEIGHTS, extra={"extra": b"x"}))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(NotAnExecutableError, match="no regular file"):
            Executable(path)


def test_a_file_that_is_replaced_while_it_is_loaded_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.popef"
    versions = [sealed(body(put("metadata", {"a": "x" * size})), GRAPH, WEIGHTS) for size in (1, 5000)]
    path.write_bytes(versions[0])
    done = threading.Event()

    def replace() -> None:
        number = 0
        while not done.is_set():
            number += 1
            (tmp_path / "next").write_bytes(versions[number % 2])
            os.replace(tmp_path / "next", path)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        sizes = {len(Executable(path).manifest.metadata.get("a", "")) for _ in range(400)}
    finally:
        done.set()
        thread.join()
    assert sizes <= {0, 1, 5000}


def test_a_file_cut_short_later_is_an_error_and_no_crash(tmp_path: Path) -> None:
    loaded = load(tmp_path, sealed(body(), GRAPH, WEIGHTS))
    os.truncate(tmp_path / "m.popef", 100)
    with pytest.raises(DamagedExecutableError, match="rename it into place"):
        loaded.weight("w")
    with pytest.raises(DamagedExecutableError, match="rename it into place"):
        loaded.check_unchanged()


def test_a_file_overwritten_in_place_is_noticed_and_one_that_was_touched_is_not_refused(tmp_path: Path) -> None:
    data = sealed(body(), GRAPH, b"12345678" * 8)
    loaded = load(tmp_path, data)
    os.utime(tmp_path / "m.popef", ns=(1, 1))
    loaded.check_unchanged()
    with open(tmp_path / "m.popef", "r+b") as file:
        file.seek(data.index(b"12345678"))
        file.write(b"x")
    with pytest.raises(DamagedExecutableError, match=r"weights\.bin.*rename it into place"):
        loaded.check_unchanged()


def test_an_executable_that_is_gone_closes_its_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "m.popef"
    path.write_bytes(sealed(body(), GRAPH, WEIGHTS))
    Executable(path)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for _ in range(20):
        Executable(path)
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert after <= before + 2
