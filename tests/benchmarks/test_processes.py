"""Work in a process of its own leaves none behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import run_alone
from benchmarks.stalls import Stalls, StallWatch, note_lateness

ROOT = Path(__file__).parents[2]
SOON = 60.0


def double(value: int) -> int:
    return 2 * value


def fail() -> None:
    raise ValueError("no such case")


def end_early() -> None:
    os._exit(9)


def sleep_long(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(3600)


def test_the_result_comes_from_another_process() -> None:
    assert run_alone(double, 21) == 42
    assert run_alone(os.getpid) != os.getpid()


def test_the_function_s_error_is_raised_here() -> None:
    with pytest.raises(ValueError, match="no such case"):
        run_alone(fail)


def test_a_process_that_ends_early_is_named() -> None:
    with pytest.raises(RuntimeError, match="end_early ended early, with exit code 9"):
        run_alone(end_early)


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_benchmark_leaves_no_process_behind(tmp_path: Path, way: signal.Signals) -> None:
    told, script = tmp_path / "pid", tmp_path / "measure.py"
    script.write_text(
        "from benchmarks import __main__, commands\nfrom benchmarks.processes import run_alone\n"
        "from test_processes import sleep_long\n"
        f"if __name__ == '__main__':\n    commands.main = lambda: run_alone(sleep_long, {str(told)!r})\n"
        "    __main__._main()\n"
    )
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths})
    try:
        wait_until(lambda: told.exists() and told.read_text() != "")
        child = int(told.read_text())
        parent.send_signal(way)
        parent.wait(SOON)
        wait_until(lambda: not runs(child))
    finally:
        parent.kill()
    assert parent.returncode == (-signal.SIGKILL if way is signal.SIGKILL else 130)


def runs(process: int) -> bool:
    """Whether it runs; one that ended and that nobody has asked for does not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.02)


def test_lateness_counts_from_the_moment_that_the_sleeper_was_due() -> None:
    now = [0.0]
    lateness_of_naps = iter([0.0, 0.5, 0.25])

    def sleep(seconds: float) -> None:
        now[0] += seconds + next(lateness_of_naps)

    ends = iter([False, False, True])
    assert note_lateness(lambda: next(ends), sleep, lambda: now[0]) == pytest.approx([0, 0.5, 0.25])


def test_stalls_are_quantiles_of_the_lateness() -> None:
    stalls = Stalls.of([0.0] * 989 + [1.0] * 10 + [5.0] * 2)
    assert (stalls.p99, stalls.p999, stalls.worst) == (1.0, 5.0, 5.0)


def test_the_watch_has_noted_wake_ups_when_it_ends() -> None:
    with StallWatch() as watch:
        pass
    assert watch.lateness
    assert min(watch.lateness) >= 0
