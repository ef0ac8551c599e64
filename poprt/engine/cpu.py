"""What the CPU can do, where the operating system says so."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_ARM = frozenset({"aarch64", "arm64"})
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CPUINFO = Path("/proc/cpuinfo")
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def lacks_int8_dot_products() -> bool:
    """Whether this is an x86 CPU that says what it has, and has no dot products of 8-bit numbers.

    On such a CPU onnxruntime multiplies uint8 by int8 in 16 bits and adds pairs of products, which may overflow.
    """
    flags = _flags() if platform.machine().lower() in _X86 else frozenset()
    return bool(flags) and _DOT_PRODUCTS.isdisjoint(flags)


def has_bfloat16() -> bool:
    """Whether this CPU says that it has products of bfloat16: AVX512-BF16 or AMX of x86, BF16 of Arm."""
    return not _BFLOAT16.isdisjoint(_flags())


def is_arm() -> bool:
    """Whether this is a 64-bit Arm CPU."""
    return platform.machine().lower() in _ARM


def _flags() -> frozenset[str]:
    """What the CPU says that it has; nothing where the operating system does not tell."""
    try:
        line = re.search(r"^(?:flags|Features)\s*:(.*)$", _CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(line[1].split()) if line is not None else frozenset()


def usable_cores() -> int:
    """How many cores this process may keep busy: those it may run on, and no more than its control group has time for.

    A container with a limit of 2.5 CPUs sees all cores of its machine. With a thread for each, all of them would be
    stopped together whenever the time is used up.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cores_of_groups())))


def _cores_of_groups() -> float:
    """The least CPU time a second that this process's control group, or one around it, is limited to."""
    return min((limit for folder in _groups() if (limit := _limit(folder)) is not None), default=math.inf)


def _groups() -> Iterator[Path]:
    """The folders of this process's control group and of those around it, for both versions of control groups.

    Inside a container the path may be that of the host, which is not there: then the container's own is the root.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            for root in (_GROUPS / controllers, _GROUPS / "cpu") if controllers else (_GROUPS, _GROUPS / "unified"):
                own = root / path.lstrip("/")
                yield own
                yield from (parent for parent in own.parents if parent.is_relative_to(root))


def _limit(folder: Path) -> float | None:
    """Cores' worth of time; None where there is no limit, or the folder is no control group."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{item}_us").read_text(encoding="utf-8") for item in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):  # "max" is no number
        return None
