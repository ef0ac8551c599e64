"""Names and spellings that programs for PopRT use: each exists, and does what it says."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import poprt
from passes.errors import RewriteError, UnknownPassError
from poprt import Pass, PassManager, backends, get_registered_passes, passes, runtime
from poprt._names import sHostConcatRunnerConfig
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter, Sharder
from poprt.errors import CompileError, PoprtError
from poprt.passes import ImmutablePass, apply_ir_pass, register
from poprt.passes.apply_ir_pass import ApplyIrPass
from poprt.passes.base_pass import get_all_named_subclasses
from poprt.passes.remove_duplicated_initializer import RemoveDuplicatedInitializer
from tests.passes.rewrites import ops, parse

LINEAR = "g (float[2, 3] x, float[2, 3] z) => (float[2, 3] y) { y = Add (x, z) }"
FEEDS = {"x": np.ones((2, 3), np.float32), "z": np.full((2, 3), 2, np.float32)}


def test_shapes_and_types_are_asked_of_passes() -> None:
    graph = parse(LINEAR).graph
    assert (passes.get_shape(graph, "x"), passes.get_dtype(graph, "y")) == ([2, 3], onnx.TensorProto.FLOAT)
    assert passes.get_constant(graph, "x") is None


def test_memory_views_are_what_a_runner_takes() -> None:
    inputs, outputs = runtime.InputMemoryView(FEEDS), runtime.OutputMemoryView()
    outputs["y"] = np.zeros((2, 3), np.float32)
    with runtime.Runner(Compiler.compile(parse(LINEAR), ["y"])) as runner:
        runner.execute(inputs, outputs)
    np.testing.assert_array_equal(outputs["y"], 3)


@pytest.mark.parametrize("form", ["path", "bytes", "file", "model"])
def test_a_backend_is_ready_when_it_is_made(form: str, tmp_path: Path) -> None:
    model = parse(LINEAR)
    onnx.save(model, tmp_path / "m.onnx")
    forms: dict[str, Any] = {
        "path": str(tmp_path / "m.onnx"),
        "bytes": model.SerializeToString(),
        "file": io.BytesIO(model.SerializeToString()),
        "model": model,
    }
    backend = poprt.Backend(forms[form], export_popef=str(tmp_path / "m.popef"))
    assert isinstance(backend, poprt.Backend)
    (answer,) = backend.run(["y"], FEEDS, align_output_dtype=True)
    np.testing.assert_array_equal(answer, 3)
    inputs, outputs = backend.get_io_info()
    assert (inputs["x"], list(outputs)) == (([2, 3], np.dtype("float32")), ["y"])
    assert (tmp_path / "m.popef").exists()


def test_options_of_a_runner_are_announced_by_a_backend(caplog: pytest.LogCaptureFixture) -> None:
    options = CompilerOptions(show_compilation_progress_bar=False)
    backends.Backend(parse(LINEAR), compiler_options=options, runtime_options=runtime.RuntimeConfig())
    assert "runtime_options has no effect on a backend" in caplog.text


def test_a_backend_stands_in_for_a_session_of_onnxruntime(caplog: pytest.LogCaptureFixture) -> None:
    session = backends.ORTBackend(parse(LINEAR).SerializeToString(), providers=["CPUExecutionProvider"])
    assert "providers has no effect here" in caplog.text
    feeds = {item.name: FEEDS[item.name] for item in session.get_inputs()}
    np.testing.assert_array_equal(session.run([session.get_outputs()[0].name], feeds, None)[0], 3)
    assert session.get_inputs()[0] == backends.IoArgument("x", [2, 3], "tensor(float)")


def test_a_lazy_backend_compiles_at_its_first_run() -> None:
    broken = parse("g (float[2] x) => (float[2] y) { y = nowhere.Op (x) }")
    lazy = backends.ORTBackend(broken, lazy_load=True)
    with pytest.raises(CompileError):
        lazy.run(None, {"x": np.zeros(2, np.float32)})
    with pytest.raises(CompileError):
        backends.ORTBackend(broken)


def test_a_session_that_is_not_loaded_says_so() -> None:
    with pytest.raises(PoprtError, match=r"call load\(\) first"):
        poprt.backend.get_session(parse(LINEAR)).run(None, FEEDS)


def test_a_sharder_passes_the_model_through_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = parse(LINEAR)
    assert Sharder(sharding_info={"a": 0}, pipelining_info={"a": 0}).run(model) is model
    assert "Sharder has no effect here" in caplog.text


class Counted(ImmutablePass):
    """Counts the graphs of a model, and tries to change them."""

    name = "counted_by_a_test"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.graphs = 0

    def run_transform(self, graph: onnx.GraphProto, is_main_graph: bool) -> onnx.GraphProto:
        self.graphs += 1
        graph.name = "changed"
        return graph


def test_an_immutable_pass_changes_nothing() -> None:
    counted = Counted("what a script passes on", more=1)
    model = PassManager(used_passes=[counted]).run(parse(LINEAR))
    assert (model.graph.name, counted.graphs) == ("g", 1)


def test_named_subclasses_are_found_below_each_other() -> None:
    assert get_all_named_subclasses(Pass)["counted_by_a_test"] is Counted
    assert "counted_by_a_test" not in get_all_named_subclasses(Counted)


def test_ir_passes_are_passes_like_others() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Identity (x) y = Neg (a) }")
    assert ops(ApplyIrPass(["eliminate_identity"])(model)) == ["Neg"]
    assert ops(apply_ir_pass.ApplyIrPass().run(model)) == ["Identity", "Neg"]
    with pytest.raises(UnknownPassError, match="did you mean 'eliminate_identity'"):
        ApplyIrPass(["eliminate_identty"])(model)


def test_the_class_of_a_pass_runs_by_itself() -> None:
    weights = "float[2] a = {1, 2}, float[2] b = {1, 2}"
    model = parse(f"g (float[2] x) => (float[2] y) <{weights}> {{ c = Add (x, a) y = Add (c, b) }}")
    assert len(RemoveDuplicatedInitializer().run(model).graph.initializer) == 1


def test_keys_have_names() -> None:
    assert sHostConcatRunnerConfig == "HostConcatRunnerConfig"


def test_registered_passes_are_a_list_and_a_dict() -> None:
    names = get_registered_passes()
    assert names[0] == sorted(names)[0] == next(iter(names))
    assert names["sort_graph"] is names.get("sort_graph") is dict(names)["sort_graph"]
    assert names["sort_graph"]().name == "sort_graph"
    assert (list(names.keys()), len(names.items())) == (list(names), len(names.values()))
    assert ("sort_graph" in names, names.get("nonsense"), names[:1]) == (True, None, [names[0]])
    with pytest.raises(KeyError):
        names["nonsense"]
    assert Pass.get_registered_passes() == names == passes.get_registered_passes()


def test_a_pass_manager_takes_passes_by_keyword_and_more_later() -> None:
    manager = PassManager(used_passes=["eliminate_identity"], gather_ir_passes=True)
    manager.add_passes(used_passes=["sort_graph"])
    assert manager.get_all_pass_names() == ["eliminate_identity", "sort_graph"]
    assert [step.name for step in manager.get_passes()] == manager.get_all_pass_names()
    assert ops(manager.run(parse("g (float[2] x) => (float[2] y) { a = Identity (x) y = Neg (a) }"))) == ["Neg"]


def test_a_pass_registers_itself_by_either_name() -> None:
    @Pass.register_pass("registered_by_a_test")
    class Mine(Pass):
        pass

    assert get_registered_passes()["registered_by_a_test"] is Mine
    assert register is passes.register


def test_a_built_in_pass_still_refuses_options_that_it_does_not_have() -> None:
    with pytest.raises(RewriteError, match="does not take these options"):
        poprt.get_pass("sort_graph", 1)


@pytest.mark.parametrize("precision", ["FP16", "fp16"])
def test_precision_may_be_in_capitals(precision: str) -> None:
    converted = Converter(precision=precision, disable_progress_bar=True).convert(parse(LINEAR))
    assert passes.get_dtype(converted.graph, "y") == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize(
    "keywords",
    [
        {"remap_mode": ["after_matmul", "before_add"]},
        {"fp8_params": "F143,F143,0,0", "precision": "fp16"},
        {"fp8_skip_op_names": "Conv_1,Conv_2"},
        {"quantize": True},
        {"eightbitsio": True},
    ],
    ids=lambda keywords: next(iter(keywords)),
)
def test_what_asks_for_other_hardware_is_announced(keywords: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    Converter(**keywords).convert(parse(LINEAR))
    (message,) = [record.message for record in caplog.records if "no effect" in record.message]
    assert message.startswith(next(iter(keywords)))


def all_tensors(model: onnx.ModelProto) -> list[str]:
    """Make an output of every tensor, by its name alone, as tools do that compare tensor by tensor."""
    outputs = {item.name for item in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name not in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return names


STANDARD = "g (float[2, 3] x) => (float[2, 3] y) { a = Relu (x) b = Greater (a, x) c = Not (b) y = Neg (a) }"
TEXTS = (
    STANDARD,
    "g (float[2, 3] x) => (float[2, 3] y) { a = com.microsoft.Gelu (x) y = Neg (a) }",
    """g (int32[2, 3] m) => (float[2, 1, 3, 3] y)
       { a = ai.graphcore.AttentionMask <dataType = "FLOAT"> (m, m) y = Neg (a) }""",
)


@pytest.mark.parametrize(("text", "backend"), [(STANDARD, "onnxruntime"), *((text, "poprt") for text in TEXTS)])
def test_outputs_may_be_names_without_types(text: str, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    model = parse(text)
    names = all_tensors(model)
    with caplog.at_level(logging.WARNING, "poprt"):
        session = poprt.backend.get_session(model, 1, backend).load()
    inputs, outputs = session.get_io_info()
    feeds = {name: np.ones(shape, dtype) for name, (shape, dtype) in inputs.items()}
    answers = session.run(names, feeds)
    assert [(answer.shape, answer.dtype) for answer in answers] == [
        (tuple(outputs[name][0] or ()), outputs[name][1]) for name in names
    ]
    assert not caplog.records
