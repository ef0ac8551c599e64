"""A packed executable that no runner can feed is refused when it is compiled, by the name of the input."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import onnx
import pytest

from passes.packed_model import PackedModel
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import CompileError, DamagedExecutableError, ExecutableError, PoprtError
from poprt.executable import Executable
from poprt.manifest_rules import check_manifest
from poprt.runtime import PackRunner
from tests.passes.rewrites import copy_of
from tests.poprt.runtime.vector_models import LAYOUTS, MOST, converted, encoder, whole_executable, with_whole_inputs


@cache
def whole() -> onnx.ModelProto:
    return with_whole_inputs(converted("across_rows", encoder()), MOST)


def saying(**fields: Any) -> onnx.ModelProto:
    """The packed encoder that says something else of its packing."""
    model = copy_of(whole())
    packing = PackedModel.read(model)
    assert packing is not None
    replace(packing, **fields).write(model)
    return model


def test_an_input_of_no_kind_is_named() -> None:
    with pytest.raises(CompileError, match=r"no runner can feed input 'user' of shape \[10, 8\] to a pack; expected"):
        Compiler.compile(saying(sample_inputs=()))
    with pytest.raises(CompileError, match=r"no runner can feed input 'scale' of shape \[\]"):
        Compiler.compile(saying(run_inputs=()))


@pytest.mark.parametrize(
    ("name", "axis", "message"),
    [
        (
            "boxes",
            3,
            r"'boxes' has the shape \[3, 32, 2, 0\] \(0 is open\); expected \[rows, columns, ...\] with",
        ),
        ("user", 1, r"'user' has the shape \[10, 0\] \(0 is open\); expected \[samples, ...\] with fixed extents"),
    ],
)
def test_an_open_extent_of_what_a_token_or_sample_holds_is_named(name: str, axis: int, message: str) -> None:
    model = copy_of(whole())
    value = next(value for value in model.graph.input if value.name == name)
    value.type.tensor_type.shape.dim[axis].Clear()
    with pytest.raises(CompileError, match=message):
        Compiler.compile(model)


@pytest.mark.parametrize("name", ["boxes", "user", "scale"])
def test_an_input_of_unknown_rank_is_named(name: str) -> None:
    model = copy_of(whole())
    next(value for value in model.graph.input if value.name == name).type.tensor_type.ClearField("shape")
    with pytest.raises(CompileError, match=f"input '{name}': the model does not say its rank"):
        Compiler.compile(model)


def test_what_leaves_open_how_many_tokens_a_pack_holds_is_neither_run_nor_written(tmp_path: Any) -> None:
    model = Converter(**LAYOUTS["across_rows"], disable_progress_bar=True).convert(copy_of(encoder()))
    executable = Compiler.compile(model)
    with pytest.raises(PoprtError, match=r"has open extents, .* convert the model with input_shape"):
        PackRunner(executable)
    with pytest.raises(ExecutableError, match=r"'packing.rows' is 0, expected .* convert the model with --input_shape"):
        executable.save(tmp_path / "open.popef")


def test_a_file_with_such_inputs_is_loaded_again(tmp_path: Any) -> None:
    path = tmp_path / "whole.popef"
    whole_executable("across_rows").save(path)
    packing = Executable(path).packing
    assert packing is not None
    assert (packing.sample_inputs, packing.run_inputs) == (("user",), ("scale",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sample_inputs": ("users",)}, "packing.sample_inputs"),
        ({"sample_inputs": ("scale",), "run_inputs": ("user",)}, "packing.sample_inputs"),
        ({"run_inputs": ("user",)}, "inputs of tokens, samples, pairs, runs"),
        ({"run_inputs": ("none",)}, "packing.run_inputs"),
        ({"dynamic_inputs": ("ids", "boxes", "mask", "user")}, "inputs of tokens, samples, pairs, runs"),
    ],
)
def test_a_damaged_manifest_is_refused_by_the_field(fields: dict[str, Any], message: str) -> None:
    manifest = whole_executable("across_rows").manifest
    assert manifest.packing is not None
    damaged = replace(manifest, packing=replace(manifest.packing, **fields))
    with pytest.raises(DamagedExecutableError, match=message):
        check_manifest(damaged, file_bytes=1 << 20, weight_bytes=1 << 20)
