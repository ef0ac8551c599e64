"""How far results lie apart, and whether that is too far."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from poprt.errors import PoprtError
from poprt.sample_data import Array
from poprt.value_dependence import Dependence

#: Largest difference relative to the largest magnitude of an output, by precision. For the floats a magnitude below 1
#: counts as 1. int8's tolerance is too wide for that: it would let pass any embedding of unit length. "rounded" is for
#: models that round activations themselves: one bit at the end of a float tips such a rounding over, and what follows.
TOLERANCE = {"fp32": 1e-5, "rounded": 1.5e-1, "fp16": 2e-2, "bf16": 1e-1, "int8": 1.5e-1}
_LEAST_MAGNITUDE = {"fp32": 1.0, "rounded": 1e-3, "fp16": 1.0, "bf16": 1.0, "int8": 1e-3}

logger = logging.getLogger("poprt")

#: Results to compare, the expected one first; one pair a run of the original.
Pairs = Sequence[tuple[Array, Array]]


@dataclass(frozen=True)
class OutputCheck:
    """How one output of the converted model compares with the original's.

    Attributes:
        max_abs_diff, mean_abs_diff: over all compared values; inf where one side is NaN or infinite alone. The larger
            of those of the model as it is written and as it is served.
        tolerance: the largest difference that passes. Of whole numbers 0, else what the precision allows, and what the
            engine's optimiser alone does to the original.
        passed: whether the difference is within the tolerance, or nothing can be said.
        served_abs_diff: the largest one of the compiled model in packs, with the engine's optimiser on; None where it
            could not be compiled.
        optimiser_abs_diff: the largest one between the original with and without the engine's optimiser.
        not_comparable: why nothing can be said; "" where the outputs were compared.
    """

    name: str
    max_abs_diff: float
    mean_abs_diff: float
    tolerance: float
    passed: bool
    served_abs_diff: float | None = None
    optimiser_abs_diff: float = 0.0
    not_comparable: str = ""


def judge(name: str, runs: Sequence[Pairs], alone: Pairs, precision: str, decided: Dependence) -> OutputCheck:
    """Compare one output, or say why two right models may differ in it.

    Args:
        name: of the output.
        runs: of the converted model as it is written and, where there are two, as it is served.
        alone: the original with the engine's optimiser off and on. What that does is not the conversion's.
        precision: a key of :data:`TOLERANCE`.
        decided: what else than the inputs' shapes decides the output.

    Raises:
        PoprtError: the outputs have other shapes, which no value explains.
    """
    unlike = [_other_extents(pairs) for pairs in (*runs, alone)]
    shapes = next(filter(None, unlike), None)
    if shapes is not None and decided.extents and len(shapes[0]) == len(shapes[1]):
        mine, theirs = map(list, shapes)
        where = "the converted model" if any(unlike[:-1]) else "the original, optimised"
        why = f"its extents depend on values ({decided.extents}): {mine} in the original, {theirs} in {where}"
        return _not_comparable(name, why)
    check = _judged(name, [_difference(name, pairs) for pairs in runs], _difference(name, alone), runs[0], precision)
    if not check.passed and decided.chance:
        return _not_comparable(name, f"it holds random numbers ({decided.chance})")
    return check


def _other_extents(pairs: Pairs) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    return next(((mine.shape, theirs.shape) for mine, theirs in pairs if mine.size != theirs.size), None)


def _not_comparable(name: str, why: str) -> OutputCheck:
    logger.warning("check: output %r is not comparable: %s", name, why)
    return OutputCheck(name, math.nan, math.nan, 0.0, passed=True, not_comparable=why)


def _judged(
    name: str, runs: Sequence[tuple[float, float]], alone: tuple[float, float], pairs: Pairs, precision: str
) -> OutputCheck:
    largest, mean = max(runs)
    tolerance = _tolerance(pairs, precision)
    if tolerance and np.isfinite(alone[0]):
        tolerance += alone[0]
    served = runs[1][0] if len(runs) > 1 else None
    return OutputCheck(name, largest, mean, tolerance, largest <= tolerance, served, alone[0])


def _difference(name: str, pairs: Pairs) -> tuple[float, float]:
    """The largest difference and the mean of all."""
    expected = np.concatenate([np.ravel(mine) for mine, _ in pairs])
    got = np.concatenate([np.ravel(theirs) for _, theirs in pairs])
    if expected.size != got.size:
        raise PoprtError(
            f"output {name!r}: the shapes differ, {[(mine.shape, theirs.shape) for mine, theirs in pairs]}"
        )
    if expected.dtype == object:  # strings are equal or not: the difference is 0 or 1
        difference = (expected != got).astype(np.float64)
    else:
        difference = differences(expected.astype(np.float64), got.astype(np.float64))
    return float(difference.max(initial=0.0)), float(difference.mean()) if difference.size else 0.0


def _tolerance(pairs: Pairs, precision: str) -> float:
    """0 for whole numbers and strings."""
    values = np.concatenate([np.ravel(mine) for mine, _ in pairs])
    if values.dtype == object or values.dtype.kind in "biu":
        return 0.0
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    return TOLERANCE[precision] * max(_LEAST_MAGNITUDE[precision], float(finite.max(initial=0.0)))


def differences(expected: Any, got: Any) -> Any:
    """The magnitude of each difference; NaN equals NaN, and infinite is what is not finite on one side alone."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(expected - got)
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
