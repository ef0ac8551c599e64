"""Several models in one: the fused ONNX model, its executable, and what each of the models is in both."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from passes.errors import RewriteError
from poprt.backend import get_session
from poprt.compiler import Compiler, CompilerOptions
from poprt.container import write_container
from poprt.converter import MFConverter
from poprt.engine.session import EngineSession
from poprt.errors import CompileError, DamagedExecutableError, ExecutableError, InputError
from poprt.executable import Executable
from poprt.fusion import FUSION_KEY
from poprt.runtime.declared import DeclaredSession
from tests import numerics
from tests.passes.rewrites import copy_of, parse
from tests.poprt.fused_models import BRANCHES, adds, packed_bert, subtracts, triples

X = np.array([[1, 2]], np.float32)
CALLS = """
g (float[2] {0}) => (float[2] {1}) {{ {1} = local.Shift({0}) }}
<domain: "local", opset_import: ["" : 17]> Shift (a) => (b) {{ c = Constant <value_float = {2}> ()  b = Add(a, c) }}
"""


def names(values: object) -> list[str]:
    return [value.name for value in values]  # type: ignore[attr-defined]


def test_the_models_stand_side_by_side_in_a_model_for_any_runtime() -> None:
    models = [adds(), triples(), subtracts()]
    before = [copy_of(model) for model in models]
    fused = MFConverter().convert(models)
    assert models == before
    onnx.checker.check_model(fused, full_check=True)
    assert names(fused.graph.input) == ["graph0/X", "graph0/Y", "graph1/X", "graph2/W"]
    assert names(fused.graph.output) == ["graph0/O", "graph1/O", "graph1/P", "graph2/S"]
    assert {entry.domain: entry.version for entry in fused.opset_import}[""] == 17
    ones = {"graph0/X": X, "graph0/Y": X, "graph1/X": np.ones((4, 2), np.float32), "graph2/W": np.ones(1, np.int8)}
    results = numerics.run(fused, ones)
    np.testing.assert_array_equal(results["graph0/O"], [2, 4])
    np.testing.assert_array_equal(results["graph1/O"], np.full((4, 2), 3))
    assert results["graph2/S"] == [-2]


def test_each_model_of_the_executable_is_an_executable_with_its_own_names(tmp_path: Path) -> None:
    fused = MFConverter().convert([adds(), triples(), subtracts()])
    Compiler.compile_and_export(fused, None, tmp_path / "fused.popef")
    executable = Executable(tmp_path / "fused.popef")
    assert names(executable.inputs) == ["graph0/X", "graph0/Y", "graph1/X", "graph2/W"]
    assert [names(model.inputs) for model in executable.models] == [["X", "Y"], ["X"], ["W"]]
    (result,) = EngineSession(executable.models[2]).run({"W": np.array([5], np.int8)})
    assert result == [2]
    executable.save(tmp_path / "again.popef")
    assert (tmp_path / "again.popef").read_bytes() == (tmp_path / "fused.popef").read_bytes()


def test_a_model_alone_is_compiled_as_it_is_from_the_fused_one(tmp_path: Path) -> None:
    bert = packed_bert()
    Compiler.compile(MFConverter().convert([adds(17), bert])).models[1].save(tmp_path / "one.popef")
    Compiler.compile(bert).save(tmp_path / "alone.popef")
    one, alone = Executable(tmp_path / "one.popef"), Executable(tmp_path / "alone.popef")
    assert one.manifest == alone.manifest
    assert one.packing is not None
    assert onnx.load_from_string(one.graph).graph.node == onnx.load_from_string(alone.graph).graph.node


@pytest.mark.parametrize("flag", [True, False])
def test_subgraphs_read_weights_and_tensors_of_their_own_model(flag: bool) -> None:
    model = parse(BRANCHES)
    fused = MFConverter().convert([parse(BRANCHES), model])
    onnx.checker.check_model(fused)
    feeds = {"V": np.array([1, 5, 9], np.float32), "B": np.array(flag)}
    (result,) = DeclaredSession(Compiler.compile(fused).models[1]).run(feeds)
    np.testing.assert_array_equal(result, numerics.run(model, feeds)["R"])


def test_functions_of_one_name_and_two_bodies_stay_two() -> None:
    models = [
        parse(CALLS.format("a", "b", 1.0)),
        parse(CALLS.format("c", "d", 2.0)),
        parse(CALLS.format("e", "f", 1.0)),
    ]
    fused = MFConverter().convert(models)
    assert names(fused.functions) == ["Shift", "Shift_graph1"]
    zeros = np.zeros(2, np.float32)
    session = get_session(fused).load()
    results = session.run(["b", "d", "f"], {"a": zeros, "c": zeros, "e": zeros})
    np.testing.assert_array_equal(results, [[1, 1], [2, 2], [1, 1]])


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ([], "one ModelProto or more"),
        (adds(), "a list"),
        ([adds(), "m.onnx"], "model 1: expected a ModelProto, got str"),
        ([adds(), MFConverter().convert([adds()])], "model 1: it is fused itself"),
        ([triples(), parse("g (float[2] x) => (float[2] y) { y = Nothing(x) }", opset=9)], "model 1 cannot be fused"),
    ],
    ids=["none", "not a list", "a path", "fused", "opset"],
)
def test_what_cannot_be_fused_is_named(models: object, text: str) -> None:
    with pytest.raises(RewriteError, match=text):
        MFConverter().convert(models)  # type: ignore[arg-type]


def test_operators_of_two_versions_of_another_domain_are_refused() -> None:
    newer = triples()
    next(entry for entry in newer.opset_import if entry.domain == "local").version = 2
    with pytest.raises(RewriteError, match="model 1 has version 2 of the operators of 'local', a model before it 1"):
        MFConverter().convert([triples(), newer])


def test_outputs_are_chosen_by_name_and_each_model_keeps_one() -> None:
    fused = MFConverter().convert([adds(), triples()])
    executable = Compiler.compile(fused, ["graph1/P", "graph0/O"])
    assert names(executable.outputs) == ["graph0/O", "graph1/P"]
    assert names(Compiler.compile(fused, ["graph0/O", "P"]).outputs) == ["graph0/O", "graph1/P"]
    with pytest.raises(CompileError, match="none of model 0"):
        Compiler.compile(fused, ["graph1/O"])
    with pytest.raises(InputError, match="'O' is in models 0 and 1"):
        Compiler.compile(fused, ["O"])


def test_a_model_that_the_engine_refuses_is_named_by_its_number() -> None:
    broken = parse("g (float[2] x) => (float[2] y) { y = local.Missing(x) }")
    with pytest.raises(CompileError, match=r"model 1: .*Missing"):
        Compiler.compile(MFConverter().convert([adds(), broken]))


def test_a_damaged_record_and_a_model_that_reads_another_are_errors() -> None:
    fused = MFConverter().convert([adds(), triples()])
    crossed = copy_of(fused)
    crossed.graph.node[-1].input[0] = "graph0/Y"
    with pytest.raises(CompileError, match="fused model 1 reads 'graph0/Y'"):
        Compiler.compile(crossed)
    onnx.helper.set_model_props(fused, {FUSION_KEY: "[1]"})
    with pytest.raises(CompileError, match="damaged"):
        Compiler.compile(fused)


def test_tensors_that_a_pass_made_since_go_with_the_model_that_needs_them() -> None:
    fused = MFConverter().convert([adds(17), adds(17)])
    shared = next(tensor for tensor in fused.graph.initializer if tensor.name == "graph0/C")
    shared.name = "common"
    for node in fused.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = "common" if name.endswith("/C") else name
    for model in Compiler.compile(fused).models:
        (result,) = DeclaredSession(model).run({"X": X, "Y": X})
        np.testing.assert_array_equal(result, [2, 4])


def test_a_session_runs_the_models_that_are_asked_for_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    session = get_session(MFConverter().convert([adds(), triples(), subtracts()]).SerializeToString()).load()
    runs: list[list[str]] = []
    run = EngineSession.run

    def noting(self: EngineSession, feeds: object, output_names: object = None) -> object:
        runs.append(self.input_names)
        return run(self, feeds, output_names)  # type: ignore[arg-type]

    monkeypatch.setattr(EngineSession, "run", noting)
    (result,) = session.run(["graph0/O"], {"graph0/X": X, "graph0/Y": X})
    np.testing.assert_array_equal(result, [2, 4])
    assert runs == [["X", "Y"]]
    four = np.ones((4, 2), np.float32)
    assert len(session.run(None, {"graph1/X": four})) == 2
    assert runs[1:] == [["X"]]
    both = session.run(["S", "graph1/P", "S"], {"W": np.array([1], np.int8), "graph1/X": four})
    assert [result.reshape(-1)[0] for result in both] == [-2, -1, -2]
    inputs, _ = session.get_io_info()
    assert list(inputs) == ["graph0/X", "graph0/Y", "graph1/X", "graph2/W"]
    assert inputs["graph1/X"] == ([4, 2], np.dtype(np.float32))
    with pytest.raises(InputError, match="missing input 'Y'"):
        session.run(None, {"graph0/X": X})
    with pytest.raises(InputError, match="say 'graph0/X' or 'graph1/X'"):
        session.run(None, {"X": X})


def test_options_are_those_of_every_model(tmp_path: Path) -> None:
    options = CompilerOptions(opaque_blobs={"made by": "me"}, constant_weights=False)
    executable = Compiler.compile(MFConverter().convert([adds(), packed_bert()]), None, options)
    assert executable.opaque_blobs == {"made by": "me"}
    assert not any(spec.constant for spec in executable.models[1].manifest.weights if spec.dtype == "float32")


def test_executables_are_fused_without_a_copy_and_used_one_at_a_time() -> None:
    models = [Compiler.compile(adds()), Compiler.compile(triples())]
    fused = Executable.fused(models)
    assert fused.models == tuple(models)
    with pytest.raises(ExecutableError, match=r"holds 2 models: take one of them, executable\.models\[0\]"):
        EngineSession(fused)
    with pytest.raises(ExecutableError, match="executable 0 holds several"):
        Executable.fused([fused])
    with pytest.raises(ExecutableError, match="nothing to fuse"):
        Executable.fused([])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_file_with_other_members_than_its_models_is_damaged(tmp_path: Path, count: int) -> None:
    fused = Executable.fused([Compiler.compile(adds()), Compiler.compile(triples())])
    bodies = [json.loads(json.dumps(dataclasses.asdict(model.manifest))) for model in fused.models]
    payloads = {
        name: part for index, one in enumerate(fused.models) for name, part in one._payloads(f"graph{index}/").items()
    }
    write_container(tmp_path / "f.popef", payloads, {"models": (bodies * 2)[:count]}, version=2)
    with pytest.raises(DamagedExecutableError, match="members are|models"):
        Executable(tmp_path / "f.popef")


def test_a_graph_of_a_model_is_checked_as_any_other(tmp_path: Path) -> None:
    one = Compiler.compile(adds())
    unsafe = Executable.build(one.manifest, b"no model")
    with pytest.raises(ExecutableError, match="not written"):
        Executable.fused([one, unsafe]).save(tmp_path / "f.popef")
