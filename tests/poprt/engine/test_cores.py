"""How many cores are used: those of the process, within the CPU time that its control group has."""

import os
from pathlib import Path

import pytest

from poprt.engine import cpu

V2, V1 = "0::{}\n", "5:cpuset:/else\n4:cpu,cpuacct:{}\n3:memory:/other\n"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        (V2.format("/"), {"cpu.max": "250000 100000\n"}, 3),
        (V2.format("/"), {"cpu.max": "max 100000\n"}, 16),
        (V2.format("/"), {"cpu.max": "20000 100000\n"}, 1),
        (V2.format("/pod/one"), {"pod/cpu.max": "200000 100000\n", "pod/one/cpu.max": "max 100000\n"}, 2),
        (V2.format("/pod/one"), {"pod/cpu.max": "400000 100000\n", "pod/one/cpu.max": "200000 100000\n"}, 2),
        (V2.format("/not/here"), {"cpu.max": "400000 100000\n"}, 4),
        (V2.format("/"), {"unified/cpu.max": "400000 100000\n"}, 4),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V1.format("/"), {"cpu,cpuacct/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"}, 3),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        (V1.format("/docker/ab"), {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V2.format("/"), {"cpu.max": "900000 100000\n"}, 9),
        (V2.format("/"), {"cpu.max": "damaged"}, 16),
        (V2.format("/"), {"cpu.max": "100000 0"}, 16),
        ("no lines of that kind", {}, 16),
        (None, {}, 16),
    ],
)
def test_a_limit_of_cpu_time_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    monkeypatch.setattr(cpu, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cpu, "_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert cpu.usable_cores() == cores


def test_no_more_than_the_cores_that_the_process_may_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("800000 100000\n")
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(cpu, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cpu, "_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert cpu.usable_cores() == 1
