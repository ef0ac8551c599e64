"""Shapes: those that callers give, and those that the engine answers with."""

from __future__ import annotations

from collections.abc import Sequence

from poprt.errors import ExecutableError
from poprt.manifest import TensorSpec


def same_shape(shape: Sequence[int], declared: Sequence[int], free_axis: int | None = None) -> bool:
    """Tell whether a shape is the declared one; a declared 0 and the free axis match any extent."""
    return len(shape) == len(declared) and all(
        want in (0, got) or axis == free_axis for axis, (got, want) in enumerate(zip(shape, declared, strict=True))
    )


def fits(shape: Sequence[int], spec: TensorSpec, free_axis: int | None = None) -> bool:
    """Tell whether a shape is one that ``spec`` declares; any is where it declares no rank."""
    return spec.any_rank or same_shape(shape, spec.shape, free_axis)


def wrong_result(name: str, shape: Sequence[int], declared: Sequence[int]) -> ExecutableError:
    """The error of a result that cannot be handed on: part of it would be missing, and zeros look like an answer."""
    return ExecutableError(
        f"output {name!r}: the engine answered with shape {list(shape)}, the executable declares {list(declared)} "
        "(0 is any extent): the model says something else of its output than it gives; correct the output's shape in "
        "the model, or leave it out there, and compile again"
    )
