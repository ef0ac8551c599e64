"""What a GPU changes, which one module is asked for; with a device that is only said to be there."""

from __future__ import annotations

import onnx
import pytest

from benchmarks.workloads import build, convert_packed
from poprt.compiler import Compiler, CompilerOptions
from poprt.engine.choice import engines_to_try
from poprt.engine.lanes import choose_lanes
from poprt.engine.providers import CPU_ONLY, default_providers, has_fast_half, runs_on_cpu
from poprt.executable import Executable
from poprt.manifest import ONNXRUNTIME


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime says that it has CUDA. Sessions that are opened all the same run on the CPU."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", *CPU_ONLY])
    for module in ("poprt.compiler.validate", "poprt.engine.session"):
        for name in ("default_providers", "chosen_providers"):
            monkeypatch.setattr(f"{module}.{name}", lambda *_: list(CPU_ONLY), raising=False)


def compiled() -> Executable:
    return Compiler.compile(convert_packed(build("tiny"), 64, "fp16"), options=CompilerOptions(engine="auto"))


def operators(executable: Executable) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(executable.graph).graph.node}


def test_a_gpu_computes_in_float16_runs_one_pack_at_a_time_and_is_onnxruntimes(gpu: None) -> None:
    assert default_providers()[0] == "CUDAExecutionProvider"
    assert has_fast_half()
    assert not runs_on_cpu()
    assert choose_lanes().count == 1
    assert engines_to_try(compiled().manifest, None) == [ONNXRUNTIME]


def test_a_graph_for_a_gpu_keeps_float16_and_has_no_branches(gpu: None) -> None:
    executable = compiled()
    assert "If" not in operators(executable)
    assert {spec.engine_dtype for spec in executable.outputs} == {"float16"}
    assert executable.packing is not None
    assert not executable.packing.equal_lengths_cheaper


def test_a_graph_for_a_cpu_is_of_float32_and_has_branches() -> None:
    executable = compiled()
    assert "If" in operators(executable)
    assert {spec.engine_dtype for spec in executable.outputs} == {"float32"}
