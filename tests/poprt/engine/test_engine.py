"""The engine's room: what is decided there is decided nowhere else, and its former paths still work."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

import poprt
from poprt.engine.options import session_options
from poprt.engine.providers import chosen_providers, default_providers, has_fast_half, runs_on_cpu

_SOURCES = Path(poprt.__file__).parent


def test_sessions_are_opened_and_providers_named_in_the_engines_room_alone() -> None:
    elsewhere = {
        f"{path.relative_to(_SOURCES)}: {word}"
        for path in _SOURCES.rglob("*.py")
        for word in ("InferenceSession(", "SessionOptions", 'ExecutionProvider"', "intra_op_num_threads")
        if word in path.read_text(encoding="utf-8") and path.parent.name != "engine"
    }
    assert elsewhere == set()


@pytest.mark.parametrize("name", ["session", "cpu", "stream"])
def test_the_former_paths_give_the_same_objects(name: str) -> None:
    former = importlib.import_module(f"poprt.runtime.{name}")
    now = importlib.import_module(f"poprt.engine.{'protocol' if name == 'stream' else name}")
    expected = {"session": "EngineSession", "cpu": "usable_cores", "stream": "Session"}[name]
    assert getattr(former, expected) is getattr(now, expected)


def test_providers_that_are_not_given_are_the_machines_best_first(monkeypatch: pytest.MonkeyPatch) -> None:
    available = ["AzureExecutionProvider", "CPUExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: available)
    assert default_providers() == chosen_providers(None) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert has_fast_half()
    assert not runs_on_cpu()
    assert runs_on_cpu(["CPUExecutionProvider"])
    assert not has_fast_half(["CPUExecutionProvider"])


def test_naming_providers_loads_no_onnxruntime_before_they_are_asked_for() -> None:
    script = "import sys, poprt.engine.providers, poprt.engine.cpu, poprt.runtime; print('onnxruntime' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_threads_wait_busily_for_the_next_run_unless_they_are_told_not_to() -> None:
    key = "session.force_spinning_stop"
    assert session_options(spin_between_runs=False).get_session_config_entry(key) == "1"
    with pytest.raises(RuntimeError, match="does not have configuration with key"):
        session_options().get_session_config_entry(key)
