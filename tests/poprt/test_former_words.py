"""Files of an earlier poprt have a former name for a layout, and lack a field; they are served like those of today."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.packed_model import METADATA_KEY, PackedModel
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from poprt.runtime import PackRunner, PackRunnerConfig
from tests.fuzz.files import sealed
from tests.numerics import one_by_one, random_samples

ROWS, COLUMNS = 2, 16
LENGTHS = [5, 9, 3]
#: Layout -> what earlier files say, and how a model is packed so.
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "across_rows": ("unpack_repack", {"pack_args": {"max_valid_num": 4, "segment_max_size": COLUMNS}}),
    "within_rows": ("attention_mask", {"used_passes": ["insert_attention_mask"]}),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_bert(BertConfig(**SIZES["tiny"], head="qa"))


def packed(model: onnx.ModelProto, layout: str) -> onnx.ModelProto:
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    return Converter(input_shape=shapes, skip_isolation_check=True, **LAYOUTS[layout][1]).convert(model)


def formerly(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: value for name, value in fields.items() if name != "layout"},
        "style": LAYOUTS[fields["layout"]][0],
    }


def with_former_metadata(converted: onnx.ModelProto) -> onnx.ModelProto:
    (entry,) = (item for item in converted.metadata_props if item.key == METADATA_KEY)
    entry.value = json.dumps(formerly(json.loads(entry.value)))
    return converted


def with_former_manifest(executable: Executable, path: Path) -> Executable:
    manifest = json.loads(json.dumps(dataclasses.asdict(executable.manifest)))
    manifest["packing"] = formerly(manifest["packing"])
    del manifest["shared_scales"]
    path.write_bytes(sealed(manifest, executable.graph, b"".join(map(bytes, executable._weight_chunks()))))
    return Executable(path)


def assert_served(executable: Executable, model: onnx.ModelProto) -> None:
    samples = random_samples(LENGTHS)
    with PackRunner(executable, PackRunnerConfig(token_budget=0, lanes=1), threads=1) as runner:
        for sample, expected in zip(samples, one_by_one(model, samples), strict=True):
            outputs = {name: np.zeros_like(values) for name, values in expected.items()}
            runner.execute(sample, outputs)
            for name, values in expected.items():
                np.testing.assert_allclose(outputs[name], values, rtol=0, atol=1e-5)


def test_the_metadata_of_a_former_model_are_read_and_it_is_served(model: onnx.ModelProto, layout: str) -> None:
    converted = packed(model, layout)
    said = PackedModel.read(converted)
    former = with_former_metadata(converted)
    assert PackedModel.read(former) == said
    assert said is not None
    assert said.layout == layout
    executable = Compiler.compile(former)
    assert executable.packing is not None
    assert executable.packing.layout == layout
    assert_served(executable, model)


def test_the_manifest_of_a_former_executable_is_read_and_it_is_served(
    model: onnx.ModelProto, layout: str, tmp_path: Path
) -> None:
    executable = Compiler.compile(packed(model, layout))
    former = with_former_manifest(executable, tmp_path / "former.popef")
    assert former.manifest == executable.manifest
    assert_served(former, model)
    former.save(tmp_path / "again.popef")
    assert Executable(tmp_path / "again.popef").manifest == executable.manifest
