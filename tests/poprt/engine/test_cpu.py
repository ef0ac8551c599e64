"""What the CPU says that it can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from poprt.engine import cpu

X86, ARM = (
    "processor\t: 0\nflags\t\t: fpu sse2 {}\nbugs\t\t:\n",
    "processor\t: 0\nFeatures\t: fp asimd {}\nCPU part\t: 0xd40\n",
)


@pytest.mark.parametrize(
    ("text", "has"),
    [
        (X86.format("avx512f avx512_bf16 avx512_vnni"), True),
        (X86.format("amx_tile amx_bf16"), True),
        (X86.format("avx2 fma"), False),
        (X86.format("my_avx512_bf16"), False),
        (ARM.format("asimddp bf16 i8mm"), True),
        (ARM.format("asimddp svebf16"), False),
        (ARM.format("asimddp"), False),
        ("model name: bf16\n", False),
        ("", False),
    ],
)
def test_products_of_bfloat16_are_read_from_the_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, text: str, has: bool
) -> None:
    path = tmp_path_factory.mktemp("cpu") / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(cpu, "_CPUINFO", path)
    assert cpu.has_bfloat16() is has


def test_a_machine_that_does_not_tell_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_CPUINFO", Path("/not/here"))
    assert not cpu.has_bfloat16()
