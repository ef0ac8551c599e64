"""The model runner: requests in the declared shapes, or of any batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class _Rows(Request):
    """A request of ``size`` rows along the batch axis."""

    __slots__ = ("inputs", "outputs")

    def __init__(self, size: int, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        super().__init__(size)
        self.inputs = inputs
        self.outputs = outputs


class _BatchWorker:
    """Runs requests in batches of the declared size, or one by one where the batch size is not dynamic."""

    def __init__(self, session: DeclaredSession, axis: int | None, batch_size: int) -> None:
        self._session = session
        self._axis = axis
        self._batch_size = batch_size

    def is_full(self, count: int, size: int) -> bool:
        return self._axis is None or (self._batch_size > 0 and size >= self._batch_size)

    def choose(self, window: Sequence[_Rows]) -> list[_Rows]:
        """Let later requests fill the rows that the oldest leaves free in its last batch."""
        if self._axis is None:
            return [window[0]]
        room = self._whole(window[0].size) if self._batch_size else sum(r.size for r in window)
        batch: list[_Rows] = []
        for request in window:
            if request.size <= room:
                batch.append(request)
                room -= request.size
        return batch

    def run(self, batch: Sequence[_Rows]) -> None:
        names = list(dict.fromkeys(name for request in batch for name in request.outputs))
        results = self._run_rows(batch, names)
        start = 0
        with np.errstate(over="ignore", invalid="ignore"):
            for request in batch:
                for name, buffer in request.outputs.items():
                    result = results[names.index(name)]
                    if self._axis is not None:
                        result = _rows(result, self._axis, start, start + request.size)
                    copy_whole(name, buffer, result)
                start += request.size

    def _run_rows(self, batch: Sequence[_Rows], names: list[str]) -> list[Array]:
        axis, inputs = self._axis, batch[0].inputs
        if axis is None:
            return self._session.run(inputs, names)
        if len(batch) > 1:
            inputs = {name: np.concatenate([r.inputs[name] for r in batch], axis) for name in inputs}
        total = sum(request.size for request in batch)
        step = self._batch_size or total
        parts = [
            self._session.run({name: _padded(array, axis, at, step) for name, array in inputs.items()}, names)
            for at in range(0, total, step)
        ]
        return parts[0] if len(parts) == 1 else [np.concatenate(part, axis) for part in zip(*parts, strict=True)]

    def _whole(self, size: int) -> int:
        return -(-size // self._batch_size) * self._batch_size


def _rows(array: Array, axis: int, start: int, stop: int) -> Array:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _padded(array: Array, axis: int, start: int, size: int) -> Array:
    """Return ``size`` rows from ``start`` on, zeros where there are no more."""
    part = _rows(array, axis, start, start + size)
    missing = size - part.shape[axis]
    if missing == 0:
        return part
    widths = [(0, missing if i == axis else 0) for i in range(part.ndim)]
    return np.pad(part, widths)


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
        options: ``session``, ``threads`` and ``providers``, as for ``Runner``.

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
        self._axis = self._config.batching_dim
        if self._axis is not None:
            announce_shared_scales(manifest)
        batch = 0 if self._axis is None else _declared_batch(manifest, self._axis)
        timeout, limit = self._config.timeout_seconds(), self._config.queue_limit()
        session = DeclaredSession(self.executable, custom_ops=self._config.custom_ops, **options)
        worker = _BatchWorker(session, self._axis, batch)
        self._batcher = Batcher(worker, timeout=timeout, send_when_idle=self._config.send_when_idle, limit=limit)

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
        if not fits(array.shape, spec, self._axis):
            free = "" if self._axis is None else f" (any size along axis {self._axis})"
            hint = "; set batching_dim for other batch sizes" if self._axis is None else ""
            raise InputError(
                f"input {spec.name!r}: expected shape {list(spec.shape)}{free}, got {list(array.shape)}{hint}"
            )
        if self._axis is not None:  # before it shares a batch; a request that runs alone is checked by the session
            check_ids(spec, array)
        return array

    def _size(self, arrays: Mapping[str, Array]) -> int:
        if self._axis is None:
            return 1
        sizes: dict[str, int] = {name: array.shape[self._axis] for name, array in arrays.items()}
        first, size = next(iter(sizes.items()))
        for name, other in sizes.items():
            if other != size:
                raise InputError(f"inputs differ along axis {self._axis}: {first!r} has {size}, {name!r} has {other}")
        if size == 0:
            raise InputError(f"input {first!r}: the batch is empty along axis {self._axis}")
        return size

    def _buffer(self, spec: TensorSpec, value: Array, size: int) -> Array:
        buffer = check_buffer(spec.name, value)
        want = [size if axis == self._axis else extent for axis, extent in enumerate(spec.shape)]
        if not spec.any_rank and 0 not in want and buffer.size != int(np.prod(want)):
            raise InputError(f"output {spec.name!r}: expected shape {want}, got {list(buffer.shape)}")
        return buffer
