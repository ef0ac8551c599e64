"""A model's way to its executable: how often it is imported and exported, and that its weights are not copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes import PassManager, manager
from passes.parted import LARGE_TENSOR_BYTES, PartedModel
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.executable import Executable
from tests.passes.rewrites import copy_of

SIZES_OF_PACKS = {"max_valid_num": 6, "segment_max_size": 24}


def bert() -> onnx.ModelProto:
    return build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1}, head="qa"))


def converter(precision: str = "fp16") -> Converter:
    shapes = {value.name: [2, 24] for value in bert().graph.input}
    return Converter(input_shape=shapes, pack_args=SIZES_OF_PACKS, precision=precision, disable_progress_bar=True)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a manager imported and exported a graph."""
    counts: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        function = getattr(manager, name)

        def call(*args: Any) -> Any:
            counts[name] += 1
            return function(*args)

        return call

    for name in ("import_graph", "export_graph", "export_parted"):
        monkeypatch.setattr(manager, name, counting(name))
    return counts


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_converter_and_compiler_import_and_export_the_graph_once_each(counted: Counter[str], precision: str) -> None:
    executables: list[Executable] = []

    def compile_model(model: PartedModel) -> Executable:
        assert counted == {"import_graph": 1, "export_parted": 1}  # the converter's
        assert sum(tensor.ByteSize() for tensor in model.model.graph.initializer) < 20 * LARGE_TENSOR_BYTES
        executables.append(Compiler.compile(model))
        return executables[-1]

    converter(precision).convert(bert(), compile_model=compile_model)
    assert counted == {"import_graph": 2, "export_parted": 1, "export_graph": 1}
    assert len(executables) == 1


def test_the_weights_of_a_parted_model_are_its_executables_and_not_copied() -> None:
    compiled: list[tuple[dict[str, Any], Executable]] = []

    def compile_model(model: PartedModel) -> Executable:
        compiled.append((dict(model.weights), Compiler.compile(model)))
        return compiled[-1][1]

    converted = converter().convert(bert(), compile_model=compile_model)
    ((weights, executable),) = compiled
    shared = [spec.name for spec in executable.manifest.weights]
    assert len(shared) > 5
    assert all(np.shares_memory(weights[name], executable.weight(name)) for name in shared)
    written = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in converted.graph.initializer}
    for name in shared:
        np.testing.assert_array_equal(written[name], weights[name])


@pytest.mark.parametrize("constant_weights", [True, False])
def test_a_parted_model_is_compiled_to_what_the_whole_one_is(tmp_path: Path, constant_weights: bool) -> None:
    options = CompilerOptions(constant_weights=constant_weights)
    parted = PassManager(["sort_graph"]).run_parted(bert())
    names = list(parted.weights)
    Compiler.compile(parted, None, options).save(tmp_path / "parted.popef")
    assert list(parted.weights) == names
    Compiler.compile(parted.whole(), None, options).save(tmp_path / "whole.popef")
    assert (tmp_path / "parted.popef").read_bytes() == (tmp_path / "whole.popef").read_bytes()


def test_a_model_that_was_parted_and_made_whole_is_the_same() -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="qa"))
    steps = ["float_to_half", "sort_graph"]
    whole = PassManager(steps).run(copy_of(model))
    parted = PassManager(steps).run_parted(copy_of(model))
    assert np.dtype(np.float16) in {array.dtype for array in parted.weights.values()}
    assert parted.whole().SerializeToString() == whole.SerializeToString()
    assert not parted.weights


def test_what_a_users_pass_leaves_is_parted_by_the_compiler() -> None:
    parted = PassManager([lambda model: model]).run_parted(bert())
    assert not parted.weights
    assert len(Compiler.compile(parted).manifest.weights) > 5
