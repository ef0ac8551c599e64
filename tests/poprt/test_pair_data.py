"""Sample data for inputs of pairs: what checks, tries, times and calibrates uses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes.packed_model import PackedModel
from passes.parted import PartedModel
from poprt.compiler import Compiler
from poprt.errors import CompileError, DamagedExecutableError, PoprtError
from poprt.executable import Executable
from poprt.isolation import try_isolation
from poprt.manifest_rules import check_manifest
from poprt.sample_data import model_inputs
from poprt.triton.interface import TritonOptions, read_interface
from poprt.verify import verify
from poprt.verify_packed import pack_samples
from poprt_cli.run_popef import run_model, run_packed
from tests.passes.rewrites import copy_of
from tests.poprt.runtime.pair_models import CASES, COLUMNS, MOST, converted, encoder, executable

#: The weight by which the pairs of a case count.
WEIGHTS = {"distances": "D", "relations": "E"}


def spoilt(model: onnx.ModelProto, weight: str) -> onnx.ModelProto:
    """The model with another matrix for what the pairs hold."""
    other = copy_of(model)
    tensor = next(tensor for tensor in other.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), weight))
    return other


@pytest.mark.parametrize("name", CASES)
def test_the_check_feeds_pairs(name: str) -> None:
    assert verify(encoder(name), converted(name)).passed


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_check_fails_a_model_that_makes_something_else_of_them(name: str) -> None:
    assert not verify(spoilt(encoder(name), WEIGHTS[name]), converted(name)).passed


def test_samples_of_a_case_have_pairs_of_their_own_length_and_zeros_behind() -> None:
    packed = converted("a bias a head")
    packing = PackedModel.read(packed)
    assert packing is not None
    originals = model_inputs(encoder("a bias a head"))
    case = pack_samples(packing, originals, model_inputs(packed), np.random.default_rng(0))
    lengths = case.converted_feeds["unpack_info"].reshape(-1)
    rows = case.converted_feeds["pairs"]
    assert rows.shape == (MOST, 2, COLUMNS, COLUMNS)
    for row, length, feeds in zip(rows, lengths, case.original_feeds, strict=False):
        assert feeds["pairs"].shape == (1, 2, length, length)
        np.testing.assert_array_equal(row[:, :length, :length], feeds["pairs"][0])
        assert np.count_nonzero(row) == np.count_nonzero(feeds["pairs"])


@pytest.mark.parametrize("name", CASES)
def test_whether_samples_are_independent_is_tried(name: str) -> None:
    packed = converted(name)
    packing = PackedModel.read(packed)
    assert packing is not None
    trial = try_isolation(PartedModel(packed), packing, model_inputs(encoder(name)))
    assert not trial.not_tried
    assert trial.findings
    assert not trial.fell_back


@pytest.mark.isolation_failure
def test_the_trial_sees_pairs_whose_padding_shows() -> None:
    packed = converted("a mean over keys")
    packing = PackedModel.read(packed)
    assert packing is not None
    wrong = replace(packing, neighbours="any")
    wrong.write(packed)
    trial = try_isolation(PartedModel(packed), wrong, model_inputs(encoder("a mean over keys")))
    assert trial.neighbours == "same_length"


def test_int8_is_measured_on_pairs_too() -> None:
    model = converted("relations", precision="int8", check=True)
    packing = Compiler.compile(model).packing
    assert packing is not None
    assert packing.pair_inputs == {"pairs": (1, 2)}


@pytest.mark.parametrize("name", ["a bias a head", "distances"])
def test_poprt_exec_times_both_runners(name: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.popef"
    executable(name).save(path)
    assert Executable(path).packing == executable(name).packing
    options: dict[str, Any] = {"iteration": 1, "threads": 1, "pack_timeout": 0, "dynamic_input": "", "mask": ""}
    assert run_packed(Executable(path), max_valid_num=4, **options).seconds
    assert run_model(Executable(path), batch_size=None, **options).seconds


def test_triton_refuses_it_by_name() -> None:
    with pytest.raises(PoprtError, match="input 'pairs' has no value for each token, and Triton cannot share it"):
        read_interface(executable("a bias"), TritonOptions("pairs"))


def saying(**fields: Any) -> onnx.ModelProto:
    """The packed encoder that says something else of its packing."""
    model = converted("a bias a head")
    packing = PackedModel.read(model)
    assert packing is not None
    replace(packing, **fields).write(model)
    return model


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (1, r"'pairs' has the shape \[10, 0, 32, 32\] \(0 is open\); expected \[samples, ...\] with the longest"),
        (None, "input 'pairs': the model does not say its rank"),
    ],
)
def test_pairs_of_open_extents_are_refused_when_compiled(axis: int | None, message: str) -> None:
    model = converted("a bias a head")
    declared = next(value for value in model.graph.input if value.name == "pairs").type.tensor_type
    if axis is None:
        declared.ClearField("shape")
    else:
        declared.shape.dim[axis].Clear()
    with pytest.raises(CompileError, match=message):
        Compiler.compile(model)


def test_pairs_behind_a_front_end_are_refused_when_compiled() -> None:
    with pytest.raises(CompileError, match="input 'pairs' has a value for each pair of places, and a front end"):
        Compiler.compile(saying(subsampling=(3, 2, 1)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pair_inputs": {"pair": (2, 3)}}, "packing.pair_inputs.pair"),
        ({"pair_inputs": {"pairs": (2,)}}, "packing.pair_inputs.pairs"),
        ({"pair_inputs": {"pairs": (3, 2)}}, "packing.pair_inputs.pairs"),
        ({"pair_inputs": {"pairs": (0, 2)}}, "packing.pair_inputs.pairs"),
        ({"pair_inputs": {"pairs": (2, 4)}}, "packing.pair_inputs.pairs"),
        ({"pair_inputs": {"pairs": (1, 2)}}, "packing.pair_inputs.pairs.* expected the extent 32 on the axes"),
        ({"sample_inputs": ("pairs",)}, "inputs of tokens, samples, pairs"),
        ({"subsampling": (3, 2, 1)}, "packing.pair_inputs.pairs"),
        ({"max_valid_num": 9}, "packing.pair_inputs.pairs"),
    ],
)
def test_a_damaged_manifest_is_refused_by_the_field(fields: dict[str, Any], message: str) -> None:
    manifest = executable("a bias a head").manifest
    assert manifest.packing is not None
    damaged = replace(manifest, packing=replace(manifest.packing, **fields))
    with pytest.raises(DamagedExecutableError, match=message):
        check_manifest(damaged, file_bytes=1 << 20, weight_bytes=1 << 20)
