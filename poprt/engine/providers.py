"""The execution providers that run a graph."""

from __future__ import annotations

from collections.abc import Sequence

#: The CPU and nothing else: where numbers are compared, and what every onnxruntime has.
CPU_ONLY = ("CPUExecutionProvider",)

_BEST_FIRST = ("CUDAExecutionProvider", *CPU_ONLY)


def default_providers() -> list[str]:
    """The execution providers that this project uses and this machine has, the best one first."""
    import onnxruntime as ort

    available = ort.get_available_providers()
    return [name for name in _BEST_FIRST if name in available]


def chosen_providers(providers: Sequence[str] | None) -> list[str]:
    """What the caller asks for, or the default where that is None."""
    return default_providers() if providers is None else list(providers)


def runs_on_cpu(providers: Sequence[str] | None = None) -> bool:
    """Whether a session with these execution providers (None: the default ones) computes on the CPU alone."""
    return tuple(chosen_providers(providers)) == CPU_ONLY


def has_fast_half(providers: Sequence[str] | None = None) -> bool:
    """Whether the engine computes in float16 at full speed: on a GPU it does, on a CPU it does not."""
    return not set(CPU_ONLY).issuperset(chosen_providers(providers))
