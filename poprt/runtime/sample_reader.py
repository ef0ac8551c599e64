"""Reads the one sample that a request gives: its tokens, their pairs, its rows, and the values of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from poprt.errors import InputError, RequestTooLongError
from poprt.executable import Manifest, PackingSpec, TensorSpec
from poprt.runtime.buffers import Array, as_array, check_dtype, check_ids
from poprt.runtime.config import PackRunnerConfig
from poprt.runtime.shapes import same_shape
from poprt.runtime.token_axes import own_part


class SampleReader:
    """Reads the inputs of requests to a packed executable.

    Args:
        manifest, packing: the executable's.
        config: ``dynamic_input_name``: the input that gives the sample's length; ``padding_remove_mode``.
        longest: the most tokens of a sample.
    """

    def __init__(self, manifest: Manifest, packing: PackingSpec, config: PackRunnerConfig, longest: int) -> None:
        self._specs = {spec.name: spec for spec in manifest.inputs}
        self._packing = packing
        self._padding = config.padding_remove_mode
        self._longest = longest
        self._positions = np.arange(longest)
        # The input that gives the sample's length comes first, so that messages compare the others with it.
        leader = config.dynamic_input_name or packing.dynamic_inputs[0]
        self._order = sorted(packing.dynamic_inputs, key=lambda name: name != leader)

    def tokens(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every dynamic input as [L, ...], L the same for all.

        Raises:
            InputError: one is missing, mistyped, misshapen or of another length.
            RequestTooLongError: the sample has more tokens than fit.
        """
        arrays = {name: self._token_rows(self._specs[name], inputs[name]) for name in self._order if name in inputs}
        self._remove_padding(arrays)
        for name in self._order:
            if name not in arrays and name != self._packing.position_ids:
                raise InputError(f"missing input {name!r} ({_each_token(self._specs[name])})")
        leader = self._order[0] if self._order[0] in arrays else next(iter(arrays))
        length = len(arrays[leader])
        for name, array in arrays.items():
            if len(array) != length:
                raise InputError(f"inputs differ in length: {leader!r} has {length} tokens, {name!r} has {len(array)}")
        if length == 0:
            raise InputError(f"input {leader!r}: the sample has no tokens")
        check_shortest(f"input {leader!r}: the sample has {length} tokens", length, self._packing)
        if length > self._longest:
            raise RequestTooLongError(f"input {leader!r}: the sample has {length} tokens, at most {self._longest} fit")
        mask = self._packing.mask
        if mask in arrays and self._packing.shortest > 1:
            left = int(marks(arrays[mask]).sum())
            check_shortest(f"input {mask!r}: it leaves {left} tokens of the sample", left, self._packing)
        for name, array in arrays.items():
            check_ids(self._specs[name], array)
        if self._packing.position_ids and self._packing.position_ids not in arrays:
            arrays[self._packing.position_ids] = self._positions[:length]
        return arrays

    def sample_rows(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The sample's row [...] of each sample input; raise InputError if one is missing, mistyped or misshapen."""
        rows = []
        for spec in map(self._specs.__getitem__, self._packing.sample_inputs):
            rows.append(self._whole(spec, spec.shape[1:], inputs, "one row a sample"))
            check_ids(spec, rows[-1])
        return rows

    def pairs(self, inputs: Mapping[str, Array], length: int) -> list[Array]:
        """Each pair input of a sample of ``length`` tokens, [..., L, ..., L, ...]; raise InputError as for rows."""
        return [self._pairs(self._specs[name], inputs, length) for name in self._packing.pair_inputs]

    def run_values(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Each run input in the engine's type; raise InputError if one is missing, mistyped or misshapen."""
        values = []
        for spec in map(self._specs.__getitem__, self._packing.run_inputs):
            array = self._whole(spec, spec.shape, inputs, "one value a run")
            check_ids(spec, array)
            values.append(np.asarray(array, spec.engine_dtype, order="C"))
        return values

    def _token_rows(self, spec: TensorSpec, value: Array) -> Array:
        array = as_array(spec.name, value)
        check_dtype(spec.name, array, spec.dtype, values=not spec.id_limit)
        rank = len(spec.shape) - 1
        sample = array[0] if array.ndim == rank + 1 and len(array) == 1 else array
        if sample.ndim == rank and same_shape(sample.shape[1:], spec.shape[2:]):
            return sample
        one, batch = _listed("L", *spec.shape[2:]), _listed(1, "L", *spec.shape[2:])
        raise InputError(f"input {spec.name!r}: expected one sample, shape {one} or {batch}, got {list(array.shape)}")

    def _pairs(self, spec: TensorSpec, inputs: Mapping[str, Array], length: int) -> Array:
        mode, places = self._padding, length
        if mode is not None and spec.name in mode.inputs and mode.mask_name in inputs:
            places = len(self._token_rows(self._specs[mode.mask_name], inputs[mode.mask_name]))
        what = f"a value for each pair of the sample's {places} tokens"
        array = self._whole(spec, self._packing.request_shape(spec, places), inputs, what)
        own = array if places == length else own_part(array, self._packing.pair_inputs[spec.name], length)
        check_ids(spec, own)
        return own

    def _whole(self, spec: TensorSpec, shape: Sequence[int], inputs: Mapping[str, Array], what: str) -> Array:
        """An input without tokens, of ``shape`` or with one more axis of extent 1 before it."""
        if spec.name not in inputs:
            raise InputError(f"missing input {spec.name!r} ({spec.dtype}, shape {list(shape)}, {what})")
        array = as_array(spec.name, inputs[spec.name])
        check_dtype(spec.name, array, spec.dtype)
        row = array[0] if array.ndim == len(shape) + 1 and len(array) == 1 else array
        if not same_shape(row.shape, shape):
            raise InputError(
                f"input {spec.name!r}: expected {what}, shape {list(shape)} or {[1, *shape]}, got {list(array.shape)}"
            )
        return row

    def _remove_padding(self, arrays: dict[str, Array]) -> None:
        """Cut the inputs that come padded after the last token that the mask marks."""
        mode = self._padding
        if mode is None or mode.mask_name not in arrays:
            return
        present = np.flatnonzero(marks(arrays[mode.mask_name]))
        length = int(present[-1]) + 1 if len(present) else 0
        for name in (mode.mask_name, *mode.inputs):
            if name in arrays:
                arrays[name] = arrays[name][:length]


def check_shortest(what: str, tokens: int, packing: PackingSpec) -> None:
    """Raise InputError where the front end of the model leaves nothing of a sample; ``what`` tells how long it is."""
    if tokens < packing.shortest:
        raise InputError(f"{what}, and the model's front end leaves nothing of fewer than {packing.shortest}")


def marks(mask: Array, axis: int = 0) -> Array:
    """Which tokens a mask marks, bool; tokens lie along ``axis``, behind it what each of them holds."""
    behind = tuple(range(axis + 1, mask.ndim))
    marked: Array = np.any(mask, axis=behind) if behind else mask != 0
    return marked


def _each_token(spec: TensorSpec) -> str:
    rest = spec.shape[2:]
    return f"{spec.dtype}, shape {_listed('L', *rest)}" if rest else f"{spec.dtype}, one value a token"


def _listed(*extents: int | str) -> str:
    return f"[{', '.join(map(str, extents))}]"
