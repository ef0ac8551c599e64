"""``poprt_exec --isolated``: what brings the process down ends a child, and one line says how."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from poprt.executable import Manifest, TensorSpec
from poprt_cli import isolated
from poprt_cli.executor import cli
from tests.fuzz.files import sealed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource limits")


def executable(path: Path, *nodes: onnx.NodeProto, tensors: list[onnx.TensorProto]) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in "xy"]
    graph = helper.make_graph(list(nodes), "g", value[:1], value[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    specs = [TensorSpec(name, (1,), "int64", "int64") for name in "xy"]
    manifest = Manifest((specs[0],), (specs[1],), ())
    path.write_bytes(sealed(dataclasses.asdict(manifest), model.SerializeToString()))
    return path


def smallest_by(divisor: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """y = x + smallest / -divisor, in a way that no look at constants notices."""
    nodes = [
        helper.make_node("Neg", ["d"], ["negative"]),
        helper.make_node("Div", ["smallest", "negative"], ["quotient"]),
        helper.make_node("Add", ["x", "quotient"], ["y"]),
    ]
    tensors = {"d": divisor, "smallest": np.iinfo(np.int64).min}
    return nodes, [numpy_helper.from_array(np.array([value]), name) for name, value in tensors.items()]


def run(path: Path, *words: object) -> Result:
    command = ["poprt_run_popef", "--popef", str(path), "--isolated", "--iteration", "2", *map(str, words)]
    return CliRunner().invoke(cli, command, prog_name="poprt_exec")


def test_it_prints_what_the_command_prints(tmp_path: Path) -> None:
    nodes, tensors = smallest_by(2)
    result = run(executable(tmp_path / "m.popef", *nodes, tensors=tensors))
    assert result.exit_code == 0, result.output
    assert "iterations: 2" in result.stdout


def test_a_crash_is_one_line_with_the_name_of_the_signal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = executable(tmp_path / "m.popef", helper.make_node("Identity", ["x"], ["y"]), tensors=[])
    monkeypatch.setattr(isolated, "_START", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV) #")
    result = run(path)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["poprt_exec: error: the isolated process crashed: SIGSEGV"]


def test_an_error_of_ours_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "m.popef").write_text("no executable")
    result = run(tmp_path / "m.popef")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "poprt_exec: error: " in result.stderr
    assert "m.popef" in result.stderr


def test_the_clock_ends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = executable(tmp_path / "m.popef", helper.make_node("Identity", ["x"], ["y"]), tensors=[])
    monkeypatch.setattr(isolated, "_START", "import time; time.sleep(600) #")
    result = run(path, "--time_limit", 1)
    assert result.exit_code == 1
    assert "ended after 1 s" in result.stderr


def test_the_limits_hold_in_the_process(tmp_path: Path) -> None:
    script = (
        "import os, sys, resource, poprt_cli.isolated_start as isolated\n"
        "isolated.main = lambda: [print(resource.getrlimit(kind)[0]) for kind in "
        "(resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)]\n"
        "isolated.start(2048, 7)\n"
        "os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), b'x')"
    )
    target = tmp_path / "written"
    ended = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=False)
    assert ended.stdout.split() == [str(2048 << 20), str(7 * (os.cpu_count() or 1)), "0", "0"]
    assert "File too large" in ended.stderr or ended.returncode == -signal.SIGXFSZ
    assert target.stat().st_size == 0


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "size"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["z"]),
        helper.make_node("Shape", ["z"], ["s"]),
        helper.make_node("ReduceMax", ["z"], ["m"]),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.INT64),
        helper.make_node("Add", ["s", "c"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.array([1 << 33]), "size")]
    result = run(executable(tmp_path / "m.popef", *nodes, tensors=tensors), "--memory_limit", 2048)
    assert result.exit_code == 1
    assert len([line for line in result.stderr.splitlines() if line.startswith("poprt_exec: error: ")]) == 1
    assert "Traceback" not in result.stderr
