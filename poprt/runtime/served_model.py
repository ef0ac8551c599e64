"""One model that a model runner serves: what its requests may be, and how a batch of them is run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from poprt.errors import InputError
from poprt.executable import Executable, TensorSpec
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
from poprt.runtime.declared import DeclaredSession
from poprt.runtime.request import Request
from poprt.runtime.row_batches import RowBatches
from poprt.runtime.shapes import fits


class Rows(Request):
    """A request of ``size`` rows along the batch axis of ``model``."""

    __slots__ = ("inputs", "model", "outputs")

    def __init__(self, size: int, inputs: dict[str, Array], outputs: dict[str, Array], model: ServedModel) -> None:
        super().__init__(size)
        self.inputs = inputs
        self.outputs = outputs
        self.model = model


class ServedModel:
    """Checks requests and runs batches of them.

    Args:
        executable: of one model.
        session: over it.
        batches: how requests of any batch size share a run; None where each runs by itself, in the declared shapes.
        validate: check types against the declared ones; off, values are cast whatever their type.

    Attributes:
        axes: the batch axis of each input and output; empty where requests have the declared shapes.
    """

    def __init__(
        self, executable: Executable, session: DeclaredSession, batches: RowBatches | None, *, validate: bool
    ) -> None:
        manifest = executable.manifest
        self.batches = batches
        self.session = session
        self._validate = validate
        self._packing = manifest.packing
        self._inputs = manifest.inputs
        self._input_names = InputNames(spec.name for spec in manifest.inputs)
        self._outputs = {spec.name: spec for spec in manifest.outputs}
        self.axes: Mapping[str, int] = {} if batches is None else batches.axes

    def request(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Rows:
        """Check the arrays of a call, by their plain names; raise InputError."""
        self._input_names.check(inputs)
        check_known("output", outputs, self._outputs)
        arrays = {spec.name: self._input(spec, inputs) for spec in self._inputs}
        size = self._size(arrays)
        buffers = {name: self._buffer(self._outputs[name], buffer, size) for name, buffer in outputs.items()}
        return Rows(size, arrays, buffers, self)

    def release(self) -> None:
        """Let the session go; no batch may be run any more."""
        del self.session

    def run(self, batch: Sequence[Rows]) -> float:
        """Run requests of this model as one batch and fill their outputs; return the seconds spent in the engine."""
        names = list(dict.fromkeys(name for request in batch for name in request.outputs))
        started = time.perf_counter()
        results = self._run_rows(batch, names)
        seconds = time.perf_counter() - started
        start = 0
        with np.errstate(over="ignore", invalid="ignore"):
            for request in batch:
                for name, buffer in request.outputs.items():
                    result = results[names.index(name)]
                    if self.batches is not None:
                        result = _rows(result, self.batches.axes[name], start, start + request.size)
                    copy_whole(name, buffer, result)
                start += request.size
        return seconds

    def _run_rows(self, batch: Sequence[Rows], names: list[str]) -> list[Array]:
        inputs, batches = batch[0].inputs, self.batches
        if batches is None:
            return self.session.run(inputs, names)
        axes = batches.axes
        if len(batch) > 1:
            inputs = {name: np.concatenate([r.inputs[name] for r in batch], axes[name]) for name in inputs}
        parts = [
            self.session.run({name: _padded(array, axes[name], *step) for name, array in inputs.items()}, names)
            for step in batches.steps(sum(request.size for request in batch))
        ]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(part, axes[name]) for name, part in zip(names, zip(*parts, strict=True), strict=True)]

    def _input(self, spec: TensorSpec, inputs: Mapping[str, Array]) -> Array:
        if spec.name not in inputs:
            raise InputError(f"missing input {spec.name!r} ({spec.dtype}, shape {list(spec.shape)})")
        array = as_array(spec.name, inputs[spec.name])
        if self._validate:
            check_dtype(spec.name, array, spec.dtype)
        else:
            array = array.astype(spec.dtype, copy=False)
        packing = self._packing
        if packing is not None and spec.name == packing.unpack_info:
            return array  # its segment axis may be left out; the session checks it
        axis = self.axes.get(spec.name)
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
        if not self.axes:
            return 1
        sizes: dict[str, int] = {name: array.shape[self.axes[name]] for name, array in arrays.items()}
        first, size = next(iter(sizes.items()))
        for name, other in sizes.items():
            if other != size:
                axis = self.axes[name]
                raise InputError(f"inputs differ along axis {axis}: {first!r} has {size}, {name!r} has {other}")
        if size == 0:
            raise InputError(f"input {first!r}: the batch is empty along axis {self.axes[first]}")
        return size

    def _buffer(self, spec: TensorSpec, value: Array, size: int) -> Array:
        buffer = check_buffer(spec.name, value)
        batch_axis = self.axes.get(spec.name)
        want = [size if axis == batch_axis else extent for axis, extent in enumerate(spec.shape)]
        if not spec.any_rank and 0 not in want and buffer.size != int(np.prod(want)):
            raise InputError(f"output {spec.name!r}: expected shape {want}, got {list(buffer.shape)}")
        return buffer


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
