"""The commands with streams that are closed, full, gone or ASCII, and under signals."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from poprt.executable import Executable
from poprt_cli.main import cli
from poprt_cli.signals import signals_interrupt
from poprt_cli.streams import prepare_streams

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX streams and signals")

WRITTEN = ["executable.popef", "m.optimized.onnx"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("größe…", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["größe…"], ["y"])], "g", [x], [y])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def shell(line: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which POPRT and EXEC are the commands; the exit code is the command's in a pipe, too."""
    commands = {
        "POPRT": f"{sys.executable} -m poprt",
        "EXEC": f"{sys.executable} -c 'from poprt_cli.executor import main; main()'",
    }
    for name, command in commands.items():
        line = line.replace(name, command)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def written(folder: Path) -> list[str]:
    file_names = sorted(path.name for path in (folder / "out").iterdir())
    onnx.load(str(folder / "out" / "m.optimized.onnx"))
    Executable(folder / "out" / "executable.popef")
    return file_names


@pytest.mark.parametrize(
    ("streams", "code", "error"),
    [
        ("| true", 1, ""),
        (">/dev/full", 1, "poprt: error: standard output cannot be written to: No space left on device\n"),
        (">&- 2>&- <&-", 0, ""),
    ],
)
def test_the_files_are_written_whatever_becomes_of_the_table(
    model: Path, tmp_path: Path, streams: str, code: int, error: str
) -> None:
    done = shell(f"POPRT -i m.onnx --output_dir out --export_popef {streams}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", error)
    assert written(tmp_path) == WRITTEN


@pytest.mark.parametrize("words", ["-i m.onnx --show", "--help"])
def test_a_full_stdout_is_one_line(model: Path, tmp_path: Path, words: str) -> None:
    done = shell(f"POPRT {words} >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "poprt: error: standard output cannot be written to: No space left on device\n"


def test_poprt_exec_takes_such_streams_too(tmp_path: Path) -> None:
    full = shell("EXEC --help >/dev/full", tmp_path)
    assert full.returncode == 1
    assert full.stderr == "poprt_exec: error: standard output cannot be written to: No space left on device\n"
    closed = shell("EXEC poprt_run_popef --help >&- 2>&-", tmp_path)
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")


def test_an_error_keeps_its_exit_code_where_nobody_can_read_it(tmp_path: Path) -> None:
    done = shell("POPRT --precision none 2>&1 | true", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_an_ascii_terminal_gets_an_ascii_table(model: Path, tmp_path: Path) -> None:
    reader, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "poprt", "-i", "m.onnx", "--output_dir", "out", "--export_popef", "--check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output = b""
    while True:
        try:
            piece = os.read(reader, 4096)
        except OSError:  # the terminal is closed
            break
        if not piece:
            break
        output += piece
    os.close(reader)
    assert process.wait() == 0, output
    assert b"Traceback" not in output
    assert b"+---" in output
    assert output.isascii()
    assert b"\\u" not in output  # neither in the table nor in the spinner
    assert written(tmp_path) == WRITTEN


def test_letters_that_stdout_cannot_say_are_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for handler in ("strict", "surrogateescape"):  # the latter in the C locale
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors=handler))
        prepare_streams()
        print("größe…", flush=True)
        assert written.getvalue() == b"gr\\xf6\\xdfe\\u2026\n"


# Signals.


#: A command that gets a signal while it writes, and a second one while it cleans up. What it does with them is as at a
#: shell; under nohup, SIGHUP is ignored, and the command respects that.
_SIGNALLED = """
import os, signal, sys
from pathlib import Path

import click

from poprt.atomic_file import replacing
from poprt_cli.commands import CONTEXT_SETTINGS, KeyValueCommand

number = signal.Signals[sys.argv.pop()]
usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
signal.signal(number, usual)


@click.command(cls=KeyValueCommand, context_settings=CONTEXT_SETTINGS)
def command():
    with replacing("half") as file:
        try:
            file.write(b"half")
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            Path("cleaned").touch()


try:
    command(prog_name="poprt")
finally:
    assert signal.getsignal(number) is usual
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_a_command_cleanly(tmp_path: Path, name: str) -> None:
    words = [sys.executable, "-c", _SIGNALLED, name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.Signals[name]
    assert done.stderr == f"\npoprt: error: stopped by {name}\n"  # on a line of its own behind ^C
    assert [path.name for path in tmp_path.iterdir()] == ["cleaned"]


#: A command whose destructor gets the signal: what is raised there is dropped by Python.
_DROPPED = """
import os, signal, sys, time
from pathlib import Path

import click

from poprt_cli.commands import CONTEXT_SETTINGS, KeyValueCommand

number = signal.Signals[sys.argv.pop()]


class Dying:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(0.2)


@click.command(cls=KeyValueCommand, context_settings=CONTEXT_SETTINGS)
def command():
    try:
        Dying()
        time.sleep(60)
    finally:
        os.kill(os.getpid(), number)
        Path("cleaned").touch()


command(prog_name="poprt")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_that_strikes_in_a_destructor_is_not_lost(tmp_path: Path, name: str) -> None:
    words = [sys.executable, "-c", _DROPPED, name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 128 + signal.Signals[name]
    assert done.stderr == f"\npoprt: error: stopped by {name}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["cleaned"]


def test_a_signal_that_strikes_in_the_last_destructor_of_a_command_changes_nothing(tmp_path: Path) -> None:
    """The command has done its work before the signal could strike again."""
    script = _DROPPED.replace("        time.sleep(60)\n", "").replace(
        "    finally:\n        os.kill(os.getpid(), number)\n", "    finally:\n"
    )
    script = script.replace("        time.sleep(0.2)\n", "")
    words = [sys.executable, "-c", script, "SIGTERM"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["cleaned"]


def test_signals_that_others_handle_or_that_are_ignored_stay_so() -> None:
    def mine(*_: Any) -> None:
        pass

    for handler in (signal.SIG_IGN, mine):
        before = signal.signal(signal.SIGHUP, handler)
        try:
            with signals_interrupt():
                assert signal.getsignal(signal.SIGHUP) is handler
            assert signal.getsignal(signal.SIGHUP) is handler
        finally:
            signal.signal(signal.SIGHUP, before)


def test_a_command_runs_outside_the_main_thread() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(CliRunner().invoke(cli, ["-v"], prog_name="poprt")))
    thread.start()
    thread.join()
    assert results[0].exit_code == 0, results[0].output


# Outputs that would harm something.


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--output_model", "executable.popef", "--export_popef"], ("--export_popef", "--output_model")),
        (["--output_model", "../out/./executable.popef", "--export_popef"], ("--export_popef", "--output_model")),
        (["--output_model", "link.onnx", "--export_popef"], ("--export_popef", "--output_model")),
        (["--output_model", "../m.onnx"], ("--output_model", "--input_model")),
        (["--output_dir", ".", "--output_model", "m.onnx"], ("--output_model", "--input_model")),
        (["--output_dir", "same", "--output_model", "m.onnx"], ("--output_model", "--input_model")),
    ],
)
def test_two_names_of_one_file_are_an_error_before_any_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], options: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("same").symlink_to(".")
    Path("out/link.onnx").symlink_to("executable.popef")
    before = model.read_bytes()
    monkeypatch.setattr("poprt_cli.convert.Converter", None)  # no work
    result = CliRunner().invoke(cli, ["-i", "m.onnx", "--output_dir", "out", *words], prog_name="poprt")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    for option in options:
        assert option in result.stderr
    assert model.read_bytes() == before
    assert [path.name for path in Path("out").iterdir()] == ["link.onnx"]


def test_the_input_models_weights_are_not_overwritten(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.poprt_cli.interrupted import make_model

    monkeypatch.chdir(tmp_path)
    onnx.save(make_model(1), "big.onnx", save_as_external_data=True, location="weights")
    before = Path("weights").read_bytes()
    result = CliRunner().invoke(cli, ["-i", "big.onnx", "--output_model", "weights"], prog_name="poprt")
    assert result.exit_code == 1
    assert "--output_model" in result.stderr
    assert "'weights'" in result.stderr
    assert Path("weights").read_bytes() == before


@pytest.mark.parametrize("name", ["executable.popef", "m.optimized.onnx"])
def test_a_folder_in_an_outputs_place_is_found_before_any_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    monkeypatch.setattr("poprt_cli.convert.Converter", None)  # no work
    words = ["-i", str(model), "--output_dir", str(tmp_path / "out"), "--export_popef"]
    result = CliRunner().invoke(cli, words, prog_name="poprt")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert name in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
