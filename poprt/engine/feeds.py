"""What is fed to an engine's session: names, types and shapes, checked and converted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.errors import InputError
from poprt.executable import TensorSpec

Array = npt.NDArray[Any]


def check_names(feeds: Iterable[str], inputs: Iterable[str]) -> None:
    """Raise InputError unless ``feeds`` names each of ``inputs`` and nothing else."""
    feeds, inputs = list(feeds), list(inputs)
    missing = [name for name in inputs if name not in feeds]
    unknown = [name for name in feeds if name not in inputs]
    if missing or unknown:
        faults = [f"missing input {name!r}" for name in missing] + [f"unknown input {name!r}" for name in unknown]
        raise InputError(f"{', '.join(faults)}; expected {', '.join(inputs)}")


def chosen_outputs(names: Sequence[str] | None, outputs: Sequence[str]) -> list[str]:
    """The outputs that are asked for, all of them where ``names`` is None; raise InputError for an unknown one."""
    chosen = list(outputs if names is None else names)
    unknown = [name for name in chosen if name not in outputs]
    if unknown:
        raise InputError(f"unknown output {', '.join(map(repr, unknown))}; expected {', '.join(outputs)}")
    return chosen


def prepared_feeds(
    feeds: Mapping[str, Array], inputs: Mapping[str, tuple[TensorSpec, Sequence[int | str | None]]]
) -> dict[str, Array]:
    """The feeds as contiguous arrays of the engine's types and of shapes that it takes.

    Args:
        feeds: an array for each input.
        inputs: the specification of each input, and its shape in the engine's graph; no number where it is open.

    Raises:
        InputError: an input is missing, unknown, mistyped or misshapen.
    """
    check_names(feeds, inputs)
    return {name: prepared_feed(feeds[name], spec, shape) for name, (spec, shape) in inputs.items()}


def prepared_feed(value: Array, spec: TensorSpec, shape: Sequence[int | str | None]) -> Array:
    """``value`` as a contiguous array of the engine's type and a shape it takes."""
    array = to_dtype(spec.name, np.asarray(value), np.dtype(spec.engine_dtype))
    fits = len(shape) == array.ndim and all(
        not isinstance(declared, int) or declared == extent for declared, extent in zip(shape, array.shape, strict=True)
    )
    if not fits and not spec.any_rank:
        expected = [extent if isinstance(extent, int) else "any" for extent in shape]
        raise InputError(f"input {spec.name!r} has shape {list(array.shape)}, expected {expected}")
    return np.asarray(array, order="C")


def to_dtype(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """``array`` in the engine's type; raise InputError where its values or its kind do not fit ``dtype``."""
    if array.dtype == dtype:
        return array
    whole = "iub"
    if array.dtype.kind in whole and dtype.kind in whole:
        _check_range(name, array, dtype)
    elif not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise InputError(f"input {name!r} has type {array.dtype}, expected {dtype}; convert it before the call")
    return array.astype(dtype)


def _check_range(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    if array.size == 0 or np.can_cast(array.dtype, dtype, casting="safe"):
        return
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise InputError(f"input {name!r} has values from {least} to {most}, which {dtype} cannot hold")
