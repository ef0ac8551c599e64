"""Which engines may run an executable, and what is said where one may not."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import parser

from poprt.compiler import Compiler, CompilerOptions
from poprt.engine import choice
from poprt.engine.choice import AUTO, check_engine, engines_to_try, open_main_graph
from poprt.errors import CompileError, PoprtError
from poprt.executable import Executable
from poprt.manifest import ENGINES, ONNXRUNTIME, OPENVINO
from poprt.runtime import ModelRunner, PackRunnerConfig, Runner, RuntimeConfig

MODEL = """
    <ir_version: 8, opset_import: ["" : 17]>
    linear (float[2, 4] x) => (float[2, 4] y) <float[4, 4] w = {1,2,3,4, 5,6,7,8, 1,2,3,4, 5,6,7,8}> {
        y = MatMul(x, w)
    }
"""


def model() -> onnx.ModelProto:
    return parser.parse_model(MODEL)


def compiled(engine: str) -> Executable:
    return Compiler.compile(model(), options=CompilerOptions(engine=engine))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without OpenVINO."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(choice, "is_installed", lambda engine: engine == ONNXRUNTIME)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_installed", lambda engine: True)


def test_a_graph_is_made_for_each_engine_that_is_asked_for() -> None:
    assert compiled(ONNXRUNTIME).manifest.engines == (ONNXRUNTIME,)
    assert compiled(OPENVINO).manifest.engines == (OPENVINO,)
    assert compiled(AUTO).manifest.engines == ENGINES


def test_by_default_nothing_is_made_for_another_engine() -> None:
    assert Compiler.compile(model()).manifest.engines == (ONNXRUNTIME,)


@pytest.mark.parametrize("value", ["tensorrt", "", "OpenVINO"])
def test_an_unknown_engine_is_refused_by_the_compiler(value: str) -> None:
    with pytest.raises(CompileError, match=r"'engine'.*auto, onnxruntime, openvino"):
        CompilerOptions(engine=value)


@pytest.mark.parametrize("value", ["tensorrt", 1, True])
def test_an_unknown_engine_is_refused_by_a_runner(value: object) -> None:
    for config in (RuntimeConfig(engine=value), PackRunnerConfig(engine=value)):  # type: ignore[arg-type]
        with pytest.raises(PoprtError, match="engine: expected one of auto, onnxruntime, openvino"):
            config.checked()
    assert check_engine("engine", AUTO) == AUTO


def test_without_another_engine_the_default_one_is_taken(alone: None) -> None:
    manifest = compiled(AUTO).manifest
    assert engines_to_try(manifest, None) == [ONNXRUNTIME]
    assert engines_to_try(manifest, AUTO) == [ONNXRUNTIME]
    with Runner(compiled(AUTO), RuntimeConfig(engine=AUTO)) as runner:
        assert runner.executable.manifest.engines == ENGINES


def test_with_another_engine_both_are_tried_the_default_one_first(both: None) -> None:
    assert engines_to_try(compiled(AUTO).manifest, None) == list(ENGINES)
    assert engines_to_try(compiled(AUTO).manifest, OPENVINO) == [OPENVINO]
    assert engines_to_try(compiled(ONNXRUNTIME).manifest, AUTO) == [ONNXRUNTIME]


def test_an_engine_that_is_not_installed_is_named_with_what_installs_it(alone: None) -> None:
    for executable in (compiled(AUTO), compiled(OPENVINO)):
        with pytest.raises(PoprtError, match=r"'openvino' is not installed: pip install 'poprt\[openvino\]'"):
            ModelRunner(executable, RuntimeConfig(engine=OPENVINO))
    with pytest.raises(PoprtError, match="compiled for openvino, not installed"):
        ModelRunner(compiled(OPENVINO), RuntimeConfig(engine=AUTO))


def test_an_executable_for_another_engine_says_how_to_compile_it() -> None:
    with pytest.raises(PoprtError, match=r"compiled for openvino alone.*engine='onnxruntime' or 'auto'"):
        ModelRunner(compiled(OPENVINO), RuntimeConfig(engine=ONNXRUNTIME))
    ModelRunner(compiled(ONNXRUNTIME), RuntimeConfig(engine=ONNXRUNTIME)).close()  # the advice, followed


def test_on_a_gpu_onnxruntime_runs_alone(both: None) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert engines_to_try(compiled(AUTO).manifest, AUTO, providers) == [ONNXRUNTIME]
    with pytest.raises(PoprtError, match="providers are onnxruntime's"):
        engines_to_try(compiled(AUTO).manifest, OPENVINO, providers)


def test_replaceable_weights_are_for_onnxruntime_alone() -> None:
    options = CompilerOptions(engine=AUTO, constant_weights=False)
    assert Compiler.compile(model(), options=options).manifest.engines == (ONNXRUNTIME,)
    options.engine = OPENVINO
    with pytest.raises(CompileError, match="replaceable weights"):
        Compiler.compile(model(), options=options)


def test_a_graph_for_an_engine_that_is_not_there_answers_in_onnxruntime(alone: None) -> None:
    feeds = {"x": np.ones((2, 4), np.float32)}
    (y,) = open_main_graph(compiled(OPENVINO)).run(feeds)
    assert y.tolist() == [[12, 16, 20, 24]] * 2


def test_a_manifest_with_an_engine_twice_or_an_unknown_one_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    executable = compiled(AUTO)
    for changes in ({"engine": OPENVINO}, {"engine": "tensorrt"}, {"compute": "float8"}):
        damaged = Executable.build(
            replace(executable.manifest, **changes),  # type: ignore[arg-type]
            executable.graph,
            {},
            {OPENVINO: executable.for_engine(OPENVINO).graph},
        )
        with pytest.raises(PoprtError, match=next(iter(changes))):
            damaged.save(tmp_path_factory.mktemp("x") / "x.popef")


def test_an_executable_of_two_graphs_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("x") / "x.popef"
    executable = compiled(AUTO)
    executable.save(path)
    loaded = Executable(path)
    assert loaded.manifest == executable.manifest
    for engine in ENGINES:
        assert loaded.for_engine(engine).graph == executable.for_engine(engine).graph
        assert loaded.for_engine(engine).manifest.engines == (engine,)
