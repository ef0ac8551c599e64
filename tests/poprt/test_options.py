"""Compiler options: typed, announced once, never silently without effect."""

from __future__ import annotations

import logging

import pytest

from poprt.compiler import Compiler, CompilerOptions
from poprt.errors import CompileError
from tests.poprt.test_compiler import linear


def test_documented_options_can_be_assigned_and_read() -> None:
    options = CompilerOptions()
    options.num_io_tiles = 32
    options.available_memory_proportion = 1
    options.partials_type = "half"
    options.enable_outlining = True
    options.custom_patterns = ["PreUniRepl"]
    assert (options.num_io_tiles, options.partials_type, options.batches_per_step) == (32, "half", 1)
    assert CompilerOptions.from_dict(options.to_dict()).to_dict() == options.to_dict()


def test_options_without_effect_are_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    options = CompilerOptions(num_io_tiles=32, constant_weights=True)
    with caplog.at_level(logging.WARNING, "poprt"):
        Compiler.compile(linear(), None, options)
        Compiler.compile(linear(), None, options)
    assert [record.getMessage() for record in caplog.records] == [
        "compiler options without effect on this engine (they steer an IPU): num_io_tiles"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compilation_progress_logger", print),
        ("create_host_transferable_tensor_with_offset", True),
        ("custom_patterns", "ReplaceReluWithNeg"),
        ("custom_transform_applier_settings", {"Fwd0": ["MyTransform"]}),
        ("enable_efficient_overlap_io_topo_cons", True),
        ("enable_multi_stage_reduce", False),
        ("enable_pad_conv_channel", True),
        ("serialize_ir", True),
        ("serialized_ir_dest", "ir.txt"),
        ("subgraph_copying_strategy", 1),
        ("virtual_graph_split_ratios", [0.5, 0.5]),
    ],
)
def test_a_documented_option_is_accepted_and_announced(
    name: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    options = CompilerOptions()
    setattr(options, name, value)
    with caplog.at_level(logging.WARNING, "poprt"):
        Compiler.compile(linear(), None, options)
    assert [record.getMessage() for record in caplog.records] == [
        f"compiler options without effect on this engine (they steer an IPU): {name}"
    ]


def test_an_unknown_option_is_a_warning_that_names_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "poprt"):
        options = CompilerOptions.from_dict({"num_iotiles": 3})
    assert "unknown compiler option 'num_iotiles' has no effect; did you mean 'num_io_tiles'?" in caplog.text
    assert options.num_iotiles == 3


def test_reading_an_unknown_option_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no compiler option 'nonsense'"):
        _ = CompilerOptions().nonsense


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("num_io_tiles", "many"),
        ("num_io_tiles", True),
        ("constant_weights", 1),
        ("cache_path", 3),
        ("opaque_blobs", {"a": 1}),
        ("available_memory_proportion", "half"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_option(name: str, wrong: object) -> None:
    with pytest.raises(CompileError, match=f"'{name}'"):
        setattr(CompilerOptions(), name, wrong)


def test_a_dictionary_that_is_read_belongs_to_its_options_alone() -> None:
    first = CompilerOptions()
    first.opaque_blobs["key"] = "text"
    assert first.to_dict() == {"opaque_blobs": {"key": "text"}}
    assert CompilerOptions().opaque_blobs == {}
