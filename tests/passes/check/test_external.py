"""Models whose weights lie in a file: not loaded, or with a place that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes import PassManager
from passes.errors import RewriteError
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import CompileError, PoprtError
from poprt.frontend import get_frontend
from poprt_cli.model_files import load_model
from tests.passes.rewrites import parse

SMALL, LARGE = 8, 80_000  # what the compiler keeps in the graph, and what it takes out


def write(folder: Path, size: int = SMALL, **said: str) -> Path:
    """y = (x + w) + w2, in a file whose weights lie in another; ``said`` changes what is said of w."""
    model = parse(f"g (float[{size}] x) => (float[{size}] y) {{ a = Add (x, w)  y = Add (a, w2) }}")
    for name in ("w", "w2"):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(size, np.float32), name))
    path = folder / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = said.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString().replace(b"no_utf8", b"\xff" * 7))
    return path


def nested() -> onnx.ModelProto:
    """A model whose only tensor with external data stands in an attribute of a subgraph."""
    model = parse(
        "g (float[2] x, bool c) => (float[2] y) { y = If (c) <"
        "then_branch = t () => (float[2] u) { u = Constant <value = float[2] {1, 2}> () },"
        "else_branch = e () => (float[2] v) { v = Abs (x) }> }"
    )
    tensor = model.graph.node[0].attribute[0].g.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.name, tensor.data_location = "w", onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="m.data")
    return model


def test_a_model_without_its_external_data_is_refused(tmp_path: Path) -> None:
    for model in (onnx.load(str(write(tmp_path)), load_external_data=False), nested()):
        with pytest.raises(RewriteError, match=r"'w' .*'m\.data', which was not loaded; load .*onnx\.load"):
            Converter(disable_progress_bar=True).convert(model)
    onnx.load_external_data_for_model(model := onnx.load(str(write(tmp_path)), load_external_data=False), str(tmp_path))
    assert Converter(disable_progress_bar=True).convert(model).graph.node


def test_only_a_pass_that_reads_the_weights_needs_them(tmp_path: Path) -> None:
    model = onnx.load(str(write(tmp_path)), load_external_data=False)
    kept = PassManager(["eliminate_identity"]).run(model)
    assert [tensor.external_data[0].value for tensor in kept.graph.initializer] == ["m.data"] * 2
    with pytest.raises(RewriteError, match=r"pass 'remove_duplicated_initializer'.*has no weights: .*'w'.*m\.data"):
        PassManager(["remove_duplicated_initializer"]).run(model)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    "said",
    [
        *({"offset": "abc"}, {"offset": "-8"}, {"offset": "9" * 25}, {"offset": "9" * 5000}),
        *({"length": "-1"}, {"length": "x"}, {"length": "3"}),
        *({"location": "\0"}, {"location": "a" * 300}, {"location": ""}, {"location": "no_utf8"}),
    ],
    ids=lambda said: "-".join(f"{key}-{value[:9]!r}" for key, value in said.items()),
)
def test_a_place_that_cannot_be_is_refused_by_name(said: dict[str, str], size: int, tmp_path: Path) -> None:
    path = write(tmp_path, size, **said)
    with pytest.raises(CompileError, match="'w'"):
        Compiler.compile(path)
    with pytest.raises(PoprtError, match="external data"):
        load_model(path, outputs={"output_model": tmp_path / "out.onnx"})
    if "length" in said and said["length"] == "3":
        return  # the frontend reads what it is told to read
    with pytest.raises(PoprtError, match=r"m\.onnx.*cannot be read"):
        get_frontend(path).load_model()


def test_a_file_name_that_is_too_long_names_no_model() -> None:
    with pytest.raises(PoprtError, match="input_model 'xxx"):
        load_model(Path("x" * 300))
    with pytest.raises(PoprtError, match="no model file 'xxx"):
        get_frontend("x" * 300).load_model()
