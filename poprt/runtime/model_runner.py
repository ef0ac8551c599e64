"""The model runner: requests in the declared shapes, or of any batch size."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from poprt.errors import InputError, PoprtError
from poprt.executable import Executable, Manifest, TensorSpec
from poprt.runtime.batching import Batcher, Request
from poprt.runtime.buffers import (
    Array,
    InputNames,
    as_array,
    check_buffer,
    check_dtype,
    check_ids,
    check_known,
    copy_whole,
)
from poprt.runtime.company import announce_shared_scales
from poprt.runtime.config import RuntimeConfig
from poprt.runtime.declared import DeclaredSession
from poprt.runtime.runner import Outputs, Runner
from poprt.runtime.shapes import fits

#: Rows that requests of a graph for any batch size are put together to, if they wait. Larger runs are no faster a row.
MERGED_ROWS = 16
#: Rows of one run at most, unless the model declares more: what a run keeps in memory grows with them.
MOST_ROWS = 64


class _Rows(Request):
    """A request of ``size`` rows along the batch axis."""

    __slots__ = ("inputs", "outputs")

    def __init__(self, size: int, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        super().__init__(size)
        self.inputs = inputs
        self.outputs = outputs


@dataclass(frozen=True)
class _Batches:
    """How batches are made of requests.

    Attributes:
        axes: the batch axis of each input and output.
        size: rows of a run where the graph holds its batch size; 0 where the model leaves it open.
        any_size: whether the graph takes any number of rows; then ``size`` is what it declares.
    """

    axes: Mapping[str, int]
    size: int
    any_size: bool

    def most(self) -> int:
        """The most rows that requests are put together to; 0 for no limit."""
        return max(self.size, MERGED_ROWS) if self.any_size else self.size

    def room(self, first: int, waiting: int) -> int:
        """The rows of a batch that begins with a request of ``first`` rows, while ``waiting`` rows wait in all."""
        if self.any_size:
            return max(first, self.most())
        return _whole(first, self.size) if self.size else waiting

    def steps(self, total: int) -> list[tuple[int, int]]:
        """Begin and end of each run, for a batch of ``total`` rows; what lies behind the last row is zero."""
        if self.any_size:
            count = -(-total // max(MOST_ROWS, self.size))
            bounds = [total * number // count for number in range(count + 1)]
            return list(pairwise(bounds))
        step = self.size or total
        return [(at, at + step) for at in range(0, total, step)]


class _BatchWorker:
    """Runs requests in batches, or one by one where the batch size is not dynamic (``batches`` is None)."""

    def __init__(self, session: DeclaredSession, batches: _Batches | None) -> None:
        self._session = session
        self._batches = batches

    def is_full(self, count: int, size: int) -> bool:
        return self._batches is None or 0 < self._batches.most() <= size

    def choose(self, window: Sequence[_Rows]) -> list[_Rows]:
        """Let later requests fill the rows that the first leaves free in its last batch."""
        if self._batches is None:
            return [window[0]]
        room = self._batches.room(window[0].size, sum(request.size for request in window))
        batch: list[_Rows] = []
        for request in window:
            if request.size <= room:
                batch.append(request)
                room -= request.size
        return batch

    def release(self, batch: Sequence[_Rows]) -> None:
        """Nothing is held for a batch."""

    def run(self, batch: Sequence[_Rows]) -> float:
        names = list(dict.fromkeys(name for request in batch for name in request.outputs))
        started = time.perf_counter()
        results = self._run_rows(batch, names)
        seconds = time.perf_counter() - started
        start = 0
        with np.errstate(over="ignore", invalid="ignore"):
            for request in batch:
                for name, buffer in request.outputs.items():
                    result = results[names.index(name)]
                    if self._batches is not None:
                        result = _rows(result, self._batches.axes[name], start, start + request.size)
                    copy_whole(name, buffer, result)
                start += request.size
        return seconds

    def _run_rows(self, batch: Sequence[_Rows], names: list[str]) -> list[Array]:
        inputs, batches = batch[0].inputs, self._batches
        if batches is None:
            return self._session.run(inputs, names)
        axes = batches.axes
        if len(batch) > 1:
            inputs = {name: np.concatenate([r.inputs[name] for r in batch], axes[name]) for name in inputs}
        parts = [
            self._session.run({name: _padded(array, axes[name], *step) for name, array in inputs.items()}, names)
            for step in batches.steps(sum(request.size for request in batch))
        ]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(part, axes[name]) for name, part in zip(names, zip(*parts, strict=True), strict=True)]


def _whole(size: int, batch_size: int) -> int:
    return -(-size // batch_size) * batch_size


def _rows(array: Array, axis: int, start: int, stop: int) -> Array:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _padded(array: Array, axis: int, start: int, stop: int) -> Array:
    """The rows from ``start`` to ``stop``, zeros where there are no more."""
    part = _rows(array, axis, start, stop)
    missing = stop - start - part.shape[axis]
    if missing == 0:
        return part
    widths = [(0, missing if i == axis else 0) for i in range(part.ndim)]
    return np.pad(part, widths)


def _batches(manifest: Manifest, axis: int | None) -> _Batches | None:
    """How requests of any batch size are run; None where they come in the declared shapes.

    Raises:
        PoprtError: inputs and outputs do not declare one extent along ``axis``.
    """
    if axis is None:
        return None
    open_axes = manifest.batch_axes
    if axis in {open_axes.get(spec.name) for spec in manifest.inputs}:
        first = manifest.inputs[0]
        return _Batches(open_axes, first.shape[open_axes[first.name]], any_size=True)
    names = [spec.name for spec in (*manifest.inputs, *manifest.outputs)]
    return _Batches(dict.fromkeys(names, axis), _declared_batch(manifest, axis), any_size=False)


def _declared_batch(manifest: Manifest, axis: int) -> int:
    """Return the extent that every input and output declares along the batch axis; raise PoprtError if they differ."""
    extents: dict[str, int] = {}
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.any_rank:
            raise PoprtError(
                f"batching_dim={axis}: the model does not say the rank of {spec.name!r}, so its rows cannot be told "
                "apart; declare its shape in the model, or leave batching_dim out"
            )
        if axis < 0 or axis >= len(spec.shape):
            raise PoprtError(f"batching_dim={axis}: {spec.name!r} of shape {list(spec.shape)} has no such axis")
        extents[spec.name] = spec.shape[axis]
    if len(set(extents.values())) > 1:
        raise PoprtError(f"batching_dim={axis}: every input and output needs the same extent there, got {extents}")
    return next(iter(extents.values()), 0)


class ModelRunner(Runner, configured_by=RuntimeConfig):
    """Runs requests in the declared shapes or, with ``batching_dim``, of any batch size.

    With ``batching_dim`` whole batches run as they are, the rest shares a batch with other requests or is padded with
    zeros; the outputs have as many rows as the inputs.

    Args:
        executable: an ``Executable`` or the path of one.
        config: the options; None takes the defaults.
        options: ``session``, ``threads``, ``providers`` and ``spin_between_runs``, as for ``Runner``.

    Raises:
        PoprtError: an option is out of range or does not suit the executable.
    """

    def __init__(
        self,
        executable: Executable | str | Path,
        config: RuntimeConfig | None = None,
        **options: Any,
    ) -> None:
        super().__init__(executable, config, **options)
        self._config = (RuntimeConfig() if config is None else config).checked()
        self._config.announce_without_effect()
        manifest = self.executable.manifest
        self._inputs = manifest.inputs
        self._input_names = InputNames(spec.name for spec in manifest.inputs)
        self._outputs = {spec.name: spec for spec in manifest.outputs}
        batches = _batches(manifest, self._config.batching_dim)
        if batches is not None:
            announce_shared_scales(manifest)
        self._axes: Mapping[str, int] = {} if batches is None else batches.axes
        timeout, limit = self._config.timeout_seconds(), self._config.queue_limit()
        free_axes = batches.axes if batches is not None and batches.any_size else {}
        custom = self._config.custom_ops
        session = DeclaredSession(self.executable, custom_ops=custom, free_axes=free_axes, **options)
        worker = _BatchWorker(session, batches)
        self._batcher = Batcher(
            worker,
            timeout=timeout,
            send_when_idle=self._config.send_when_idle,
            limit=limit,
            token_limit=self._config.queue_tokens,
            unit="rows",
            observer=self._config.observer,
        )

    def _request(self, inputs: Mapping[str, Array], outputs: Outputs) -> _Rows:
        self._input_names.check(inputs)
        check_known("output", outputs, self._outputs)
        arrays = {spec.name: self._input(spec, inputs) for spec in self._inputs}
        size = self._size(arrays)
        buffers = {name: self._buffer(self._outputs[name], buffer, size) for name, buffer in outputs.items()}
        return _Rows(size, arrays, buffers)

    def _input(self, spec: TensorSpec, inputs: Mapping[str, Array]) -> Array:
        if spec.name not in inputs:
            raise InputError(f"missing input {spec.name!r} ({spec.dtype}, shape {list(spec.shape)})")
        array = as_array(spec.name, inputs[spec.name])
        if self._config.validate_io_params:
            check_dtype(spec.name, array, spec.dtype)
        else:
            array = array.astype(spec.dtype, copy=False)
        packing = self.executable.manifest.packing
        if packing is not None and spec.name == packing.unpack_info:
            return array  # its segment axis may be left out; the session checks it
        axis = self._axes.get(spec.name)
        if not fits(array.shape, spec, axis):
            free = "" if axis is None else f" (any size along axis {axis})"
            hint = "; set batching_dim for other batch sizes" if axis is None else ""
            raise InputError(
                f"input {spec.name!r}: expected shape {list(spec.shape)}{free}, got {list(array.shape)}{hint}"
            )
        if axis is not None:  # before it shares a batch; a request that runs alone is checked by the session
            check_ids(spec, array)
        return array

    def _size(self, arrays: Mapping[str, Array]) -> int:
        if not self._axes:
            return 1
        sizes: dict[str, int] = {name: array.shape[self._axes[name]] for name, array in arrays.items()}
        first, size = next(iter(sizes.items()))
        for name, other in sizes.items():
            if other != size:
                axis = self._axes[name]
                raise InputError(f"inputs differ along axis {axis}: {first!r} has {size}, {name!r} has {other}")
        if size == 0:
            raise InputError(f"input {first!r}: the batch is empty along axis {self._axes[first]}")
        return size

    def _buffer(self, spec: TensorSpec, value: Array, size: int) -> Array:
        buffer = check_buffer(spec.name, value)
        batch_axis = self._axes.get(spec.name)
        want = [size if axis == batch_axis else extent for axis, extent in enumerate(spec.shape)]
        if not spec.any_rank and 0 not in want and buffer.size != int(np.prod(want)):
            raise InputError(f"output {spec.name!r}: expected shape {want}, got {list(buffer.shape)}")
        return buffer
