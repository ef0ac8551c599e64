"""Bytes that this process has in memory. Imports the standard library alone, since importing costs memory too."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

_PROC = Path("/proc/self")


def memory() -> tuple[int, int]:
    """Bytes of this process in memory, now and at most; the most for both where the system tells no more."""
    try:
        lines = (_PROC / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return most, most
    # getrusage would give the most of the parent as well, from before this program replaced it.
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return int(kib["VmRSS"]) * 1024, int(kib["VmHWM"]) * 1024


def forget_peak() -> None:
    """Let the most begin anew at what is in memory now. Only Linux can; elsewhere the peak of loading stays in it."""
    with contextlib.suppress(OSError):
        (_PROC / "clear_refs").write_text("5", encoding="ascii")
