"""A session with the declared shapes and types, over an engine that may take others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from poprt.engine.protocol import Session
from poprt.errors import InputError, RequestTooLongError
from poprt.executable import Executable, Manifest, PackingSpec, TensorSpec
from poprt.runtime.across_rows_session import AcrossRowsSession
from poprt.runtime.buffers import Array, InputNames, as_array, check_dtype, check_ids, check_known
from poprt.runtime.opening import Opening, open_executable
from poprt.runtime.places import PART_TOKENS, rows_of_a_part
from poprt.runtime.sample_reader import check_shortest, marks
from poprt.runtime.shapes import fits, wrong_result
from poprt.runtime.token_axes import clear_padding


class DeclaredSession:
    """Runs an executable in the shapes and types that it declares.

    For a ragged executable the padding that the declared shapes ask for is taken off before the engine
    runs and put back, as zeros, afterwards. Where an executable says that only samples of one length may share a run
    (``PackingSpec.neighbours``), a pack is run in as many parts as it has lengths; where none may, in one a sample. A
    large pack for an engine that takes any number of tokens is run in parts of similar length, side by side.

    Args:
        executable: what to run.
        session: an engine session to use, over ``executable``; None opens one.
        free_axes: the axis of an input or output that may have any extent, by name.
        opening: how a session is opened: the fields of :class:`poprt.runtime.opening.Opening`.

    Attributes:
        engine: the name of the engine that runs.
    """

    def __init__(
        self,
        executable: Executable,
        *,
        session: Session | None = None,
        free_axes: Mapping[str, int] | None = None,
        **opening: Any,
    ) -> None:
        self._free_axes = free_axes or {}
        self._session: Session
        if session is None:
            opened = open_executable(executable, Opening(**opening))
            executable, self._session, self._lanes = opened.executable, opened.session, opened.lanes.count
        else:
            self._session, self._lanes = session, 1
        manifest: Manifest = executable.manifest
        self.engine = manifest.engine
        self._inputs = {spec.name: spec for spec in manifest.inputs}
        self._outputs = {spec.name: spec for spec in manifest.outputs}
        self._input_names = InputNames(self._inputs)
        self._packing = manifest.packing
        self._rows_apart = manifest.packing is not None and bool(manifest.batch_axes)
        self._across_rows: AcrossRowsSession | None = None
        packing = self._packing
        if packing is not None and not packing.within_rows and (packing.ragged or packing.neighbours != "any"):
            self._across_rows = AcrossRowsSession(self._session, manifest, packing)

    @property
    def engine_session(self) -> Session:
        """The engine's session."""
        return self._session

    def run(self, feeds: Mapping[str, Array], output_names: Sequence[str] | None = None) -> list[Array]:
        """Run once. Safe to call from several threads.

        Args:
            feeds: one array an input, of the declared shape and type (or one that casts to it without loss).
                ``unpack_info`` may leave out its segment axis where there is one segment.
            output_names: outputs to return, in this order; None or none returns all.

        Returns:
            Arrays of the declared shapes and types.

        Raises:
            InputError: an input is missing, unknown, mistyped, misshapen, or holds an id outside its table, or
                ``unpack_info`` does not describe a pack.
            ExecutableError: the engine answers with other shapes than the executable declares.
        """
        names = list(output_names or self._outputs)
        check_known("output", names, self._outputs)
        self._input_names.check(feeds)
        arrays = {spec.name: self._checked(spec, feeds) for spec in self._inputs.values()}
        if self._packing is not None and self._packing.unpack_info:
            check_lengths(arrays[self._packing.unpack_info], self._packing)
            arrays |= _own_pairs(arrays, self._packing)
        for spec in self._inputs.values():
            check_ids(spec, self._read_part(spec.name, arrays))
        if self._across_rows is not None and self._packing is not None:
            return self._run_across_rows(self._across_rows, self._packing, arrays, names)
        engine = {n: np.asarray(a, self._inputs[n].engine_dtype, order="C") for n, a in arrays.items()}
        results = self._run_rows(engine, names) if self._rows_apart else self._session.run(engine, names)
        return [self._declared(name, array) for name, array in zip(names, results, strict=True)]

    def _run_rows(self, arrays: Mapping[str, Array], names: list[str]) -> list[Array]:
        """Run the rows that hold something, in parts side by side; the results of the others are zero."""
        holds = [array.any(axis=tuple(range(1, array.ndim))) for array in arrays.values()]
        used = np.flatnonzero(np.any(holds, axis=0))
        if not len(used):
            return self._session.run(arrays, names)
        rows, columns = next(iter(arrays.values())).shape[:2]
        size = rows_of_a_part(columns)
        parts = np.array_split(used, min(len(used), self._lanes * math.ceil(len(used) / size / self._lanes)))

        def run(part: Array) -> list[Array]:
            return self._session.run({name: array[part] for name, array in arrays.items()}, names)

        with ThreadPoolExecutor(self._lanes) as pool:
            answers = list(pool.map(run, parts))
        results = []
        for values in map(np.concatenate, zip(*answers, strict=True)):
            results.append(np.zeros((rows, *values.shape[1:]), values.dtype))
            results[-1][used] = values
        return results

    def _declared(self, name: str, array: Array) -> Array:
        """Return a result in its declared type; raise ExecutableError if it has another than its declared shape."""
        spec = self._outputs[name]
        if not fits(array.shape, spec, self._free_axes.get(name)):
            raise wrong_result(name, array.shape, spec.shape)
        return _cast(array, spec.dtype)

    def _read_part(self, name: str, arrays: Mapping[str, Array]) -> Array:
        """What is read of an input: of samples laid end to end, nothing behind the last one, and no row of none."""
        packing = self._packing
        if packing is None or packing.within_rows:
            return arrays[name]
        lengths = arrays[packing.unpack_info].reshape(packing.max_valid_num, -1).sum(axis=1)
        array = arrays[name]
        if name in (*packing.sample_inputs, *packing.pair_inputs):
            array = array[lengths > 0]
        return _stream(array)[: int(lengths.sum())] if name in packing.dynamic_inputs else array

    def _checked(self, spec: TensorSpec, feeds: Mapping[str, Array]) -> Array:
        if spec.name not in feeds:
            raise InputError(f"missing input {spec.name!r} ({spec.dtype}, shape {list(spec.shape)})")
        array = as_array(spec.name, feeds[spec.name])
        check_dtype(spec.name, array, spec.dtype)
        packing = self._packing
        if packing is not None and spec.name == packing.unpack_info and array.ndim == len(spec.shape) - 1:
            array = array.reshape((*array.shape, 1)) if spec.shape[-1:] == (1,) else array
        if not fits(array.shape, spec, self._free_axes.get(spec.name)):
            raise InputError(f"input {spec.name!r}: expected shape {list(spec.shape)}, got {list(array.shape)}")
        return array

    def _run_across_rows(
        self, session: AcrossRowsSession, packing: PackingSpec, arrays: Mapping[str, Array], names: list[str]
    ) -> list[Array]:
        info = arrays[packing.unpack_info].reshape(packing.max_valid_num, -1)
        rows = np.flatnonzero(info.sum(axis=1))
        lengths = np.ascontiguousarray(info[rows], dtype=np.int32)
        declared = {name: np.zeros(self._outputs[name].shape, self._outputs[name].dtype) for name in names}
        if len(rows) == 0:
            return list(declared.values())
        starts = np.cumsum(lengths.sum(axis=1)) - lengths.sum(axis=1)
        tokens = {name: _stream(arrays[name]) for name in packing.dynamic_inputs}
        if packing.mask and packing.shortest > 1:
            fewest = int(np.add.reduceat(marks(tokens[packing.mask])[: int(lengths.sum())], starts).min())
            check_shortest(f"input {packing.mask!r}: it leaves {fewest} tokens of a sample", fewest, packing)
        of_run = {name: arrays[name] for name in packing.run_inputs}

        def run(group: Array) -> list[Array]:
            where = np.concatenate([np.arange(starts[i], starts[i] + lengths[i].sum()) for i in group])
            streams = {name: values[where] for name, values in tokens.items()}
            names_of_samples = (*packing.sample_inputs, *packing.pair_inputs)
            of_samples = {name: arrays[name][rows[group]] for name in names_of_samples}
            return session.run(streams, lengths[group], names, {**of_samples, **of_run})

        groups = _groups(lengths, packing, self._lanes)
        with ThreadPoolExecutor(self._lanes) as pool:
            each = pool.map(run, groups) if len(groups) > 1 else map(run, groups)
            for group, results in zip(groups, each, strict=True):
                for name, result in zip(names, results, strict=True):
                    declared[name] = _with_room(declared[name], self._outputs[name].shape, result.shape)
                    _scatter(session, packing.outputs[name], declared[name], result, rows[group], lengths[group], name)
        return list(declared.values())


def _own_pairs(arrays: Mapping[str, Array], packing: PackingSpec) -> dict[str, Array]:
    """The pair inputs with zeros behind each sample's own places, as the graph expects them."""
    lengths = arrays[packing.unpack_info].reshape(packing.max_valid_num, -1).sum(axis=1).tolist()
    own = {name: arrays[name].copy() for name in packing.pair_inputs}
    for name, array in own.items():
        clear_padding(array, packing.pair_inputs[name], lengths)
    return own


def _stream(array: Array) -> Array:
    """Rows of tokens laid end to end: [R, C, ...] as [R * C, ...]."""
    return array.reshape(-1, *array.shape[2:])


def _with_room(target: Array, declared: Sequence[int], shape: Sequence[int]) -> Array:
    """``target``, as long as a result of ``shape`` needs it along the axes that are declared 0, for not known.

    Example: a target of [6, 0], declared so, and a result of [2, 8] make [6, 8]; the next one of [1, 9] makes [6, 9].
    """
    missing = [max(0, n - t) if d == 0 else 0 for t, d, n in zip(target.shape, declared, shape, strict=True)]
    return np.pad(target, [(0, n) for n in missing]) if any(missing) else target


def _groups(lengths: Array, packing: PackingSpec, lanes: int) -> list[Array]:
    """The samples of each run, as positions in ``lengths`` [n, segments]; see ``PackingSpec.neighbours``."""
    if packing.neighbours == "none":
        return [np.array([i]) for i in range(len(lengths))]
    if packing.neighbours == "same_length":
        _, kinds = np.unique(lengths, axis=0, return_inverse=True)
        return [np.flatnonzero(kinds.reshape(-1) == kind) for kind in range(kinds.max() + 1)]
    if not packing.ragged:
        return [np.arange(len(lengths))]
    return _alike(np.array([packing.places(int(length)) for length in lengths.sum(axis=1)]), lanes)


def _alike(sizes: Array, lanes: int) -> list[Array]:
    """Samples by length, the longest first, in runs of about ``PART_TOKENS`` that divide the lanes' work evenly.

    A run pads each sample to its longest, and small runs keep a CPU as busy as one large run does.
    """
    total = int(sizes.sum())
    count = lanes * round(total / PART_TOKENS / lanes)
    if count < 2:
        return [np.arange(len(sizes))]
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    part = np.minimum((ends - sizes[order] / 2) * count // total, count - 1)
    return [np.sort(order[part == number]) for number in range(count) if (part == number).any()]


def check_lengths(info: Array, packing: PackingSpec) -> None:
    """Raise InputError unless ``unpack_info`` describes samples that the declared rows can hold."""
    name = packing.unpack_info
    if info.size and info.min() < 0:
        raise InputError(f"input {name!r}: a length is negative ({info.min()}); give 0 where there is no sample")
    total, room = int(info.sum()), packing.rows * packing.columns
    if total > room:
        raise InputError(
            f"input {name!r}: the lengths add up to {total} tokens, {packing.rows} x {packing.columns} fit"
        )
    fewest = int(info[info > 0].min(initial=packing.shortest))
    check_shortest(f"input {name!r}: a sample has {fewest} tokens", fewest, packing)
    if not packing.within_rows:
        columns = info.reshape(info.shape[0], -1)
        for segment, size in enumerate(packing.segment_max_size):
            longest = int(columns[:, segment].max(initial=0))
            if longest > size:
                raise RequestTooLongError(
                    f"input {name!r}: a sample has {longest} tokens in segment {segment}, segment_max_size is {size}"
                )


def _scatter(
    session: AcrossRowsSession, kind: str, target: Array, result: Array, rows: Array, lengths: Array, name: str
) -> None:
    """Put the results of the samples that are present into their rows of a zero-filled declared array."""
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # float32 results beyond float16 are infinite, as in a true fp16 run
        if kind == "sample":
            values = session.sample_rows(name, result, lengths)
            inside: tuple[Array | slice, ...] = (rows, *map(slice, values.shape[1:]))
            target[inside] = values
        else:
            for row, tokens in zip(rows, session.sample_tokens(result, lengths), strict=True):
                target[(row, *map(slice, tokens.shape))] = tokens


def _cast(array: Array, dtype: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)
