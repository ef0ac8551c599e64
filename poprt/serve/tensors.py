"""Arrays of a request to the runner and back: batches that are padded with a mask become samples, and rows again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poprt.errors import InputError
from poprt.executable import Executable, PackingSpec, TensorSpec
from poprt.runtime import Runner

Array = NDArray[Any]
Arrays = dict[str, Array]


async def run_arrays(
    runner: Runner, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> tuple[Arrays, float]:
    """Run one request of arrays, all of its samples or none. A task that is cancelled takes them out of the queue.

    Args:
        runner: what runs them. Of a packed executable every row is a sample of its own.
        inputs: input name -> [batch, ...]; for a packed executable [batch, S], each row a sample that is filled up
            to S, with 0 in the mask behind its last token, or one sample [S].
        outputs: the names of those that are wanted; None: all.

    Returns:
        Output name -> [batch, ...]; where it has a value a token [batch, S, ...], zeros behind a sample's last token.
        And the seconds that the last of the samples to run was in the queue.

    Raises:
        InputError: the arrays are not what the executable takes.
        QueueFullError: the queue has no room for all samples.
        RunnerClosedError: the runner is closed.
    """
    executable = runner.executable
    specs = [spec for spec in executable.outputs if outputs is None or spec.name in outputs]
    packing = executable.packing
    if packing is None:
        return await _run_whole(runner, inputs, specs)
    rows = {name: array[None] if array.ndim == 1 else array for name, array in inputs.items()}
    width = _width(rows)
    lengths = _lengths(packing, rows, width)
    buffers = [_buffers(packing, specs, length) for length in lengths]
    feeds = [{name: array[row, :length] for name, array in rows.items()} for row, length in enumerate(lengths)]
    queued = await _answered(runner, list(zip(feeds, buffers, strict=True)))
    return {
        spec.name: stacked([buffer[spec.name] for buffer in buffers], _row_shape(packing, spec, width), spec.dtype)
        for spec in specs
    }, queued


async def _answered(runner: Runner, samples: Sequence[tuple[Arrays, Arrays]]) -> float:
    """Wait for all samples; take the others out of the queue where one fails. Returns the longest wait in it."""
    futures = runner.submit(samples)
    try:
        await asyncio.gather(*map(asyncio.wrap_future, futures))
    finally:
        for future in futures:
            future.cancel()
    return max((future.queue_seconds for future in futures), default=0.0)


async def _run_whole(runner: Runner, inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> tuple[Arrays, float]:
    """One request of all rows."""
    batch = _batch(runner.executable, inputs)
    axes = runner.executable.manifest.batch_axes
    buffers = {spec.name: np.zeros(_whole_shape(spec, axes.get(spec.name), batch), spec.dtype) for spec in specs}
    return buffers, await _answered(runner, [(dict(inputs), buffers)])


def _whole_shape(spec: TensorSpec, batch_axis: int | None, batch: int) -> list[int]:
    shape = [batch if axis == batch_axis else extent for axis, extent in enumerate(spec.shape)]
    if spec.any_rank or any(not extent and axis != batch_axis for axis, extent in enumerate(shape)):
        raise InputError(
            f"output {spec.name!r}: the model leaves its shape open, so there is no room to make for it; ask for other "
            "outputs, or compile the model with input_shape"
        )
    return shape


def _batch(executable: Executable, inputs: Mapping[str, Array]) -> int:
    """The extent of the batch axis; 0 where the executable holds its batch size."""
    axes = executable.manifest.batch_axes
    return next((inputs[name].shape[axis] for name, axis in axes.items() if name in inputs), 0)


def _width(rows: Mapping[str, Array]) -> int:
    """The width of all rows; raise InputError where they differ."""
    (first, array), *_ = rows.items()
    for name, other in rows.items():
        if other.ndim != 2:
            raise InputError(f"input {name!r}: expected [batch, tokens], got shape {list(other.shape)}")
        if other.shape != array.shape:
            raise InputError(f"inputs differ: {first!r} has shape {list(array.shape)}, {name!r} {list(other.shape)}")
    batch, width = array.shape
    if batch and not width:
        raise InputError(f"input {first!r}: shape {list(array.shape)} holds samples without a token")
    return int(width)


def _lengths(packing: PackingSpec, rows: Mapping[str, Array], width: int) -> list[int]:
    """Tokens of each sample: up to the last that the mask has, holes and what stands before the first included."""
    name = packing.mask
    mask = rows.get(name)
    if mask is None:
        return [width] * next(iter(rows.values())).shape[0]
    present = mask != 0
    lengths = np.where(present.any(axis=1), width - np.argmax(present[:, ::-1], axis=1), 0)
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise InputError(f"input {name!r}: row {empty[0]} leaves out every token")
    return [int(length) for length in lengths]


def _buffers(packing: PackingSpec, specs: Sequence[TensorSpec], length: int) -> dict[str, Array]:
    """Room for the answer to one sample."""
    return {spec.name: np.empty(_row_shape(packing, spec, length), spec.dtype) for spec in specs}


def _row_shape(packing: PackingSpec, spec: TensorSpec, length: int) -> list[int]:
    if packing.outputs[spec.name] != "sample":
        return [length, *spec.shape[2:]]
    grown = packing.token_axes.get(spec.name, ())
    return [length if axis in grown else extent for axis, extent in enumerate(spec.shape)][1:]


def stacked(rows: Sequence[Array], shape: Sequence[int], dtype: str | np.dtype[Any]) -> Array:
    """Rows of one sample each under each other, zeros from their ends to a row of ``shape``."""
    array: Array = np.zeros((len(rows), *shape), dtype)
    for number, row in enumerate(rows):
        array[number, ...][tuple(slice(extent) for extent in row.shape)] = row
    return array
