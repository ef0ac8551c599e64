"""Operators that onnxruntime lacks: their library is registered where a model is loaded, or asked for."""

from __future__ import annotations

import ctypes.util
import logging
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.engine.custom_ops import EXTENSIONS, custom_ops, registered_libraries
from poprt.errors import CompileError, PoprtError, UnsupportedOperatorError
from poprt.executable import Executable
from poprt.runtime import ModelRunner, RuntimeConfig
from poprt_cli.executor import cli as executor
from poprt_cli.main import cli

needs_extensions = pytest.mark.skipif(find_spec(EXTENSIONS) is None, reason="onnxruntime-extensions is not installed")

_BIAS = np.array([1, -1, 0.5, 2], np.float32)
_ROWS = np.array([[-3, 4, 0, 1], [2, -2, -1, 5]], np.float32)


def _split(domain: str = "ai.onnx.contrib") -> onnx.ModelProto:
    """|x + bias|: NegPos gives the negative and the positive parts of a tensor."""
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["h"]),
        helper.make_node("NegPos", ["h"], ["low", "high"], domain=domain),
        helper.make_node("Sub", ["high", "low"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])]
    bias = onnx.numpy_helper.from_array(_BIAS, "bias")
    graph = helper.make_graph(nodes, "g", inputs, outputs, [bias])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _command(tmp_path: Path, *words: str) -> Result:
    onnx.save(_split(), str(tmp_path / "m.onnx"))
    return CliRunner().invoke(cli, ["-i", str(tmp_path / "m.onnx"), "--output_dir", str(tmp_path), *words])


def test_a_model_is_converted_around_such_an_operator_and_one_line_names_the_package(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="poprt"):
        converted = Converter().convert(_split())
    assert [node.op_type for node in converted.graph.node] == ["Add", "NegPos", "Sub"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "no operator ai.onnx.contrib.NegPos" in line
    assert "pip install onnxruntime-extensions" in line


def test_a_library_of_somebody_else_is_asked_for_by_the_option(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="poprt"):
        Converter().convert(_split("own"))
    assert "--custom_ops LIBRARY" in caplog.text


def test_compiling_without_the_library_names_operator_and_package() -> None:
    with pytest.raises(
        CompileError, match=r"needs the operators ai\.onnx\.contrib\.NegPos.*--custom_ops onnxruntime_ext"
    ):
        Compiler.compile(_split())


def _text(tmp_path: Path) -> str:
    path = tmp_path / "library.so"
    path.write_text("no library")
    return str(path)


def _without_operators(tmp_path: Path) -> str:
    library = next(Path("/").glob(f"usr/lib/*/{ctypes.util.find_library('m')}"), None)
    if library is None:
        pytest.skip("this system has no libm where it is looked for")
    return str(library)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda tmp_path: str(tmp_path / "none.so"), "there is no file"),
        (str, "there is no file"),  # a folder
        (_text, "is no library of custom operators for onnxruntime"),
        (_without_operators, "undefined symbol: RegisterCustomOps"),
    ],
    ids=["no file", "folder", "text", "other library"],
)
def test_what_is_no_such_library_is_one_clear_line(tmp_path: Path, make, says: str) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path)
    result = _command(tmp_path, "--custom_ops", path)
    last = result.output.strip().splitlines()[-1]
    assert result.exit_code == 1
    assert last.startswith("poprt: error: custom_ops: ")
    assert says in last
    assert not (tmp_path / "m.optimized.onnx").exists()


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr("poprt.engine.custom_ops.find_spec", lambda name: None)
    for name in (EXTENSIONS, "onnxruntime-extensions"):
        with pytest.raises(PoprtError, match="pip install onnxruntime-extensions"), custom_ops([name]):
            pass


@pytest.mark.parametrize("value", [7, [7], {"a": 1}])
def test_options_of_another_kind_are_refused(value: object) -> None:
    with pytest.raises(PoprtError, match="custom_ops"):
        CompilerOptions(custom_ops=value)
    with pytest.raises(Exception, match="custom_ops must be paths of libraries"):
        Converter(custom_ops=value)  # type: ignore[arg-type]
    with pytest.raises(PoprtError, match="custom_ops: expected a list of paths"):
        RuntimeConfig(custom_ops=value).checked()  # type: ignore[arg-type]


@needs_extensions
def test_libraries_are_in_force_within_the_context_alone() -> None:
    with custom_ops([EXTENSIONS]) as outer, custom_ops([EXTENSIONS]) as inner:
        assert outer == inner == registered_libraries()
    assert registered_libraries() == ()


@needs_extensions
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_command_checks_compiles_and_notes_what_is_needed(tmp_path: Path, precision: str) -> None:
    words = ["--custom_ops", EXTENSIONS, "--check", "--run", "--export_popef", "--precision", precision]
    result = _command(tmp_path, *words)
    assert result.exit_code == 0, result.output
    assert "it was not tried" not in result.output
    path = tmp_path / "executable.popef"
    manifest = Executable(path).manifest
    assert manifest.custom_ops == ("ai.onnx.contrib.NegPos",)
    assert manifest.custom_libraries == (EXTENSIONS,)
    dtype = manifest.inputs[0].dtype
    got = np.empty((2, 4), dtype)
    with ModelRunner(path, RuntimeConfig(batching_dim=0, custom_ops=[EXTENSIONS])) as runner:
        runner.execute({"x": _ROWS.astype(dtype)}, {"y": got})
    np.testing.assert_allclose(got, np.abs(_ROWS + _BIAS), rtol=1e-3)


@needs_extensions
def test_an_executable_says_what_it_lacks_and_runs_with_it(tmp_path: Path) -> None:
    path = tmp_path / "m.popef"
    Compiler.compile_and_export(_split(), None, str(path), CompilerOptions(custom_ops=EXTENSIONS))
    with pytest.raises(UnsupportedOperatorError, match=r"compiled with onnxruntime_extensions.*--custom_ops"):
        ModelRunner(path)
    words = ["poprt_run_popef", "--popef", str(path), "--batchSize", "2", "--iteration", "1"]
    without, with_it = (CliRunner().invoke(executor, [*words, *more]) for more in ([], ["--custom_ops", EXTENSIONS]))
    assert without.exit_code == 1
    assert "needs the operators ai.onnx.contrib.NegPos" in without.output
    assert with_it.exit_code == 0, with_it.output


@needs_extensions
def test_the_cache_keeps_executables_of_other_libraries_apart(tmp_path: Path) -> None:
    cached = {"enable_engine_caching": True, "cache_path": str(tmp_path)}
    Compiler.compile(_split(), None, CompilerOptions(custom_ops=[EXTENSIONS], **cached))
    with pytest.raises(CompileError, match="needs the operators"):
        Compiler.compile(_split(), None, CompilerOptions(**cached))


@needs_extensions
def test_a_tokenizer_in_the_model_is_converted_around_and_checked() -> None:
    words = "\n".join(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "a", "text", "of", "words"]).encode()
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18, "ai.onnx.contrib" : 1]>
        g (string[1] text) => (float[n] y, int64[n] mask) <int64[1] end = {-1}> {
        ids, types, mask = ai.onnx.contrib.BertTokenizer (text)
        h = Gather (table, ids)  y = ReduceMean <keepdims = 0> (h, end) }""")
    tokenizer = model.graph.node[0].attribute
    for name, value in {"vocab_file": words, "do_lower_case": 1, "strip_accents": 1, "suffix_indicator": "##"}.items():
        tokenizer.append(helper.make_attribute(name, value))
    table = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    converter = Converter(custom_ops=[EXTENSIONS], check=True)
    converted = converter.convert(model)
    assert converter.verification is not None
    assert converter.verification.passed
    assert converted.graph.node[0].attribute[0].s == words
