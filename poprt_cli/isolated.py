"""Run the command in a process of its own, with limits, and say in one line how it ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

import click

from poprt.errors import PoprtError

#: Below it, python, numpy and onnxruntime alone do not fit.
LEAST_MEGABYTES = 1024

_HINTS = {
    "SIGKILL": "somebody, or a system out of memory, ended it",
    "SIGABRT": "often for lack of memory; --memory_limit gives more",
    "SIGXCPU": "it took all its processor time; --time_limit gives more",
    "SIGBUS": "often a file that was cut short while it was in use",
}
#: What the new process runs: as this one it finds its modules, and nothing in the working directory.
_START = "import sys; sys.path[:] = {path!r}; from poprt_cli.isolated_start import start; start({megabytes}, {seconds})"


def run_isolated(words: Sequence[str], megabytes: int, seconds: int) -> int:
    """Run ``poprt_exec WORDS`` in a process of its own. What it prints appears when it has ended.

    Args:
        words: the command line.
        megabytes: address space that the process may take, in MiB.
        seconds: wall clock; processor time is limited to as much on each core. It may write no file.

    Returns:
        The exit code of the process.

    Raises:
        PoprtError: a signal or the wall clock ended it, or this system has no such limits.
    """
    if not _has_limits():
        raise PoprtError("--isolated: this system has no resource limits; use a container or a virtual machine")
    script = _START.format(path=sys.path, megabytes=megabytes, seconds=seconds)
    command = [sys.executable, "-I", "-c", script, *words]
    try:
        # Pipes, because a process that may write no file could not print into one.
        ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise PoprtError(f"the isolated process was ended after {seconds} s; --time_limit gives it more") from None
    click.echo(ended.stdout, nl=False)
    click.echo(ended.stderr, nl=False, err=True)
    if ended.returncode < 0:
        raise PoprtError(f"the isolated process crashed: {_signal(-ended.returncode)}")
    return ended.returncode


def _has_limits() -> bool:
    try:
        import resource
    except ImportError:
        return False
    return hasattr(resource, "setrlimit")


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} ({_HINTS[name]})" if name in _HINTS else name
