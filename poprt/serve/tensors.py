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
from poprt.runtime.buffers import stacked
from poprt.runtime.sample_reader import marks
from poprt.runtime.token_axes import own_part

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Rows may be so many times as long as the longest sample: an output with values a token is filled up to their end.
MOST_PADDING = 4


async def run_arrays(
    runner: Runner, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> tuple[Arrays, float]:
    """Run one request of arrays, all of its samples or none. A task that is cancelled takes them out of the queue.

    Args:
        runner: what runs them. Of a packed executable every row is a sample of its own.
        inputs: input name -> [batch, ...]; for a packed executable [batch, S, ...], each row a sample that is filled up
            to S, with 0 in the mask behind its last token, or one sample [S, ...]. Inputs of pairs are [batch, S, S],
            or [S, S] for one sample, sample inputs [batch, ...], or [...], and run inputs have one value for all.
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
    tokens, of_samples, others = _by_role(executable, packing, inputs)
    width = _width(tokens)
    _check_pairs(packing, of_samples, width)
    if width > MOST_PADDING * packing.width:
        raise InputError(
            f"inputs have rows of {width} tokens, and the longest sample of the model has {packing.width}: leave away "
            "what is padding in all rows"
        )
    lengths = _lengths(packing, tokens, width)
    _check_count(tokens, of_samples)
    buffers = [_buffers(packing, specs, length) for length in lengths]
    feeds = [
        {
            **{name: array[row, :length] for name, array in tokens.items()},
            **{name: _own(packing, name, array[row], length) for name, array in of_samples.items()},
            **others,
        }
        for row, length in enumerate(lengths)
    ]
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


def _by_role(
    executable: Executable, packing: PackingSpec, inputs: Mapping[str, Array]
) -> tuple[Arrays, Arrays, Arrays]:
    """Inputs [batch, S, ...] of tokens, [batch, ...] of samples and their pairs, and the others as they are.

    Raises:
        InputError: one of them has another rank or other fixed extents; or there is none of tokens.
    """
    tokens: Arrays = {}
    of_samples: Arrays = {}
    others = dict(inputs)
    for spec in executable.inputs:
        if spec.name not in inputs or spec.name in (*packing.run_inputs, packing.unpack_info):
            continue
        array = others.pop(spec.name)
        has_tokens = spec.name in packing.dynamic_inputs
        open_axes = (1,) if has_tokens else packing.pair_inputs.get(spec.name, ())
        (tokens if has_tokens else of_samples)[spec.name] = _rows(spec, array, open_axes)
    if not tokens:
        raise InputError(f"missing input {packing.dynamic_inputs[0]!r}: expected arrays of tokens")
    return tokens, of_samples, others


def _rows(spec: TensorSpec, array: Array, open_axes: Sequence[int]) -> Array:
    """An input as rows of samples, with any extent on ``open_axes``; raise InputError for others than are declared."""
    rows = array[None] if array.ndim == len(spec.shape) - 1 else array
    fixed = [axis for axis in range(1, len(spec.shape)) if axis not in open_axes]
    if rows.ndim != len(spec.shape) or any(rows.shape[axis] != spec.shape[axis] for axis in fixed):
        behind = (str(n) if axis in fixed else "tokens" for axis, n in enumerate(spec.shape[1:], 1))
        expected = ", ".join(["batch", *behind])
        raise InputError(f"input {spec.name!r}: expected [{expected}], got shape {list(array.shape)}")
    return rows


def _check_pairs(packing: PackingSpec, of_samples: Mapping[str, Array], width: int) -> None:
    """Raise InputError where an input of pairs is not as wide as the rows of tokens."""
    for name, axes in packing.pair_inputs.items():
        if name in of_samples and any(of_samples[name].shape[axis] != width for axis in axes):
            shape = list(of_samples[name].shape)
            raise InputError(
                f"input {name!r}: expected {list(packing.pair_shape(name, shape, width))}, a value for each pair of a "
                f"row's {width} tokens, got shape {shape}"
            )


def _own(packing: PackingSpec, name: str, row: Array, length: int) -> Array:
    """One sample's row of a sample input, or of an input of pairs, cut to its tokens."""
    return own_part(row, packing.pair_inputs.get(name, ()), length)


def _check_count(tokens: Mapping[str, Array], of_samples: Mapping[str, Array]) -> None:
    """Raise InputError where an input has not a row for each sample."""
    (first, array), *_ = tokens.items()
    for name, other in of_samples.items():
        if len(other) != len(array):
            raise InputError(f"inputs differ: {first!r} has {len(array)} samples, {name!r} has {len(other)}")


def _width(rows: Mapping[str, Array]) -> int:
    """The width of all rows [batch, width, ...]; raise InputError where they differ."""
    (first, array), *_ = rows.items()
    for name, other in rows.items():
        if other.shape[:2] != array.shape[:2]:
            raise InputError(f"inputs differ: {first!r} has shape {list(array.shape)}, {name!r} {list(other.shape)}")
    batch, width = array.shape[:2]
    if batch and not width:
        raise InputError(f"input {first!r}: shape {list(array.shape)} holds samples without a token")
    return int(width)


def _lengths(packing: PackingSpec, rows: Mapping[str, Array], width: int) -> list[int]:
    """Tokens of each sample: up to the last that the mask has, holes and what stands before the first included."""
    name = packing.mask
    mask = rows.get(name)
    if mask is None:
        return [width] * next(iter(rows.values())).shape[0]
    present = marks(mask, axis=1)
    lengths = np.where(present.any(axis=1), width - np.argmax(present[:, ::-1], axis=1), 0)
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise InputError(f"input {name!r}: row {empty[0]} leaves out every token")
    return [int(length) for length in lengths]


def _buffers(packing: PackingSpec, specs: Sequence[TensorSpec], length: int) -> dict[str, Array]:
    """Room for the answer to one sample."""
    return {spec.name: np.empty(_row_shape(packing, spec, length), spec.dtype) for spec in specs}


def _row_shape(packing: PackingSpec, spec: TensorSpec, length: int) -> list[int]:
    places = packing.places(length)
    if packing.outputs[spec.name] != "sample":
        return [places, *spec.shape[2:]]
    grown = packing.token_axes.get(spec.name, ())
    return [places if axis in grown else extent for axis, extent in enumerate(spec.shape)][1:]
