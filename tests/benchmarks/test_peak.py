"""The loop of multiply-adds: what LLVM makes of it, what it computes, and how fast."""

from __future__ import annotations

import re
import sys
from collections import Counter

import numpy as np
import pytest

from benchmarks import peak
from benchmarks.pairs import repeated
from benchmarks.peak import TURNS, Loop, cpu_features, measure_peak
from benchmarks.peak_forms import FORMS, Form
from benchmarks.roof import try_peak

pytest.importorskip("llvmlite", reason="not installed: pip install '.[bench]'")

EVERY_FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


def instructions_of_the_loop(form: Form) -> list[str]:
    """What LLVM makes of the loop for a CPU that has just what the form needs."""
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    arm = form.name.startswith("128-bit")
    module = binding.parse_assembly(form.code)
    module.triple = "aarch64-unknown-linux-gnu" if arm else "x86_64-unknown-linux-gnu"
    machine = binding.Target.from_triple(module.triple).create_target_machine(
        features=",".join(f"+{name}" for name in sorted(form.features)), opt=3
    )
    lines = machine.emit_assembly(module).splitlines()
    begin = next(index for index, line in enumerate(lines) if re.match(r"\.LBB\d+_1:", line))
    end = next(index for index in range(begin, len(lines)) if re.match(r"\tj|\tb\.", lines[index]))
    return [line.replace("{vex}", "").split()[0] for line in lines[begin + 1 : end + 1]]


@EVERY_FORM
def test_the_loop_is_its_instruction_and_a_counter(form: Form) -> None:
    names = {"512-bit FMA": "vfmadd231ps", "256-bit FMA": "vfmadd231ps", "128-bit FMA": "fmla"}
    name = names.get(form.name) or form.name.split()[1].lower()
    turn = {name: form.registers}
    assert Counter(instructions_of_the_loop(form)) in (turn | {"decq": 1, "jne": 1}, turn | {"subs": 1, "b.ne": 1})


@EVERY_FORM
def test_every_sum_is_exact_and_finite(form: Form) -> None:
    if not form.features <= cpu_features():
        pytest.skip("this CPU lacks the instruction")
    loop = Loop(form)
    sums = loop.sums()
    loop(sums, 3)
    np.testing.assert_array_equal(sums, np.full((form.registers, form.lanes), 3 * form.depth))
    loop(sums, TURNS - 3)
    np.testing.assert_array_equal(sums, np.full((form.registers, form.lanes), TURNS * form.depth))


def test_the_peak_is_above_what_a_product_reaches() -> None:
    measured = measure_peak("fp32", 0.02)
    if measured is None:
        pytest.skip("no form for this CPU")
    matrix = np.ones((512, 512), np.float32)
    product = 2 * 512**3 * repeated(lambda: matrix @ matrix, 0.1)(0)
    assert measured.flops > 0.8 * product


def test_operations_are_two_for_each_multiply_add() -> None:
    (form,) = [form for form in FORMS if form.name == "512-bit VDPBF16PS"]
    assert form.flops == 2 * 12 * 32


def test_what_the_cpu_lacks_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "cpu_features", frozenset)
    assert measure_peak("bf16", 0) is None
    assert try_peak("bf16", 0) == (None, "this CPU has no instruction that multiplies and adds bf16")


def test_without_llvmlite_the_reason_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    assert try_peak("fp32", 0) == (None, "not installed (llvmlite): pip install llvmlite")
