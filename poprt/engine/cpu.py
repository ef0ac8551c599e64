"""What the CPU can do, where the operating system says so."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CPUINFO = Path("/proc/cpuinfo")


def lacks_int8_dot_products() -> bool:
    """Whether this is an x86 CPU that says what it has, and has no dot products of 8-bit numbers.

    On such a CPU onnxruntime multiplies uint8 by int8 in 16 bits and adds pairs of products, which may overflow.
    """
    if platform.machine().lower() not in _X86:
        return False
    try:
        flags = re.search(r"^flags\s*:(.*)$", _CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and _DOT_PRODUCTS.isdisjoint(flags[1].split())


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
