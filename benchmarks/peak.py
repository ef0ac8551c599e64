"""The arithmetic peak of the usable cores: a loop of multiply-adds in registers, one thread a core, nothing else.

LLVM compiles the loop for this CPU, through llvmlite. A precision that the CPU has no instruction for has no peak.

Of the forms, those for vectors on x86 have been run. Those for Arm, and for the tiles of AMX, are tested for the
instructions that LLVM makes of them, and untested otherwise.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.contenders import Array
from benchmarks.pairs import repeated
from benchmarks.peak_forms import FORMS, Form
from poprt.engine.cpu import usable_cores

HOW_TO = "pip install llvmlite"
#: Turns of a call: about a millisecond. Its sums stay below 2 ** 24, so that float32 holds each exactly.
TURNS = 1 << 18
_REPEATS = 3  # the best counts: what slows a core down for a moment is no limit of its arithmetic
_ONES = {"fp32": 0x3F800000, "bf16": 0x3F803F80, "int8": 0x01010101}  # in each 32 bits


@dataclass(frozen=True)
class Peak:
    """The most operations a second of all usable cores together.

    Attributes:
        name: of the instruction.
        flops: operations a second, two for each multiply-add.
    """

    name: str
    flops: float


def measure_peak(precision: str, seconds: float) -> Peak | None:
    """The fastest form's peak, over about three times ``seconds`` each; None where the CPU lacks such an instruction.

    Raises:
        ImportError: llvmlite is not installed.
    """
    forms = [form for form in FORMS if form.precision == precision and form.features <= cpu_features()]
    peaks = [Peak(form.name, _rate(form, seconds)) for form in forms]
    return max(peaks, key=lambda peak: peak.flops, default=None)


def cpu_features() -> frozenset[str]:
    """What this CPU has and the system lets it use, as LLVM calls it.

    Raises:
        ImportError: llvmlite is not installed.
    """
    from llvmlite import binding

    features = {name for name, has in binding.get_host_cpu_features().items() if has}
    return frozenset(features if _allows_tiles() else {name for name in features if not name.startswith("amx")})


def _allows_tiles() -> bool:
    """Ask Linux for the tiles of AMX, which it lends to those who ask: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)."""
    asked = sys.platform == "linux" and platform.machine() == "x86_64"
    return asked and ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0


def _rate(form: Form, seconds: float) -> float:
    """Operations a second of all usable cores, a thread on each, all at the same time."""
    loop, cores = Loop(form), usable_cores()
    runs = [partial(loop, loop.sums()) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:

        def together() -> float:
            return sum(pool.map(lambda run: repeated(run, seconds)(0), runs))

        together()  # warm: a core needs a while to its highest clock
        return max(together() for _ in range(_REPEATS)) * form.flops * TURNS


class Loop:
    """A form's loop, compiled for this CPU. Calls release Python's lock."""

    def __init__(self, form: Form) -> None:
        from llvmlite import binding

        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        module = binding.parse_assembly(form.code)
        target = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
        )
        self._engine = binding.create_mcjit_compiler(module, target)  # it owns the code
        address = self._engine.get_function_address("peak")
        self._peak = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(address)
        self._operand = np.full(256, _ONES[form.precision], np.uint32)
        self._form = form

    def __call__(self, sums: Array, turns: int = TURNS) -> None:
        """Add the products of ones to ``sums``, turn by turn."""
        self._peak(turns, sums.ctypes.data, self._operand.ctypes.data)

    def sums(self) -> Array:
        """Sums to begin with: zeros [registers, lanes], int32 or float32."""
        return np.zeros((self._form.registers, self._form.lanes), "i4" if self._form.precision == "int8" else "f4")
