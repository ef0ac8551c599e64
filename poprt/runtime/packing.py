"""Packs samples offline, for programs that feed a model runner with packed arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poprt.errors import InputError, RequestTooLongError
from poprt.runtime.buffers import Array, stacked, with_rows
from poprt.runtime.places import Place, place_across_rows, place_within_rows, stream_distances

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
UNPACK_INFO = "unpack_info"
OPTIONAL = ("token_type_ids", "position_ids")
#: Inputs of one value a token, which may have axes of extent 1 beside.
_ONE_VALUE = (INPUT_IDS, ATTENTION_MASK, UNPACK_INFO, *OPTIONAL)

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class PackedData:
    """One pack.

    Attributes:
        count: index of the first sample that is not in this pack; give it to the next call.
        specs: where each sample went, in the order of the samples.
        data: input name -> [rows, seq_len, ...]; the mask's values number the samples. A sample input is
            [max_valid_num, ...], 0 where there is no sample; a pair input has ``width`` places on its sequence axes, 0
            behind the sample's own. Whole numbers are int32.
        unpack_info: int32 [max_valid_num, segment_num], 0 where there is no sample.
    """

    count: int
    specs: list[Place]
    data: dict[str, Array] = field(repr=False)
    unpack_info: Ints = field(repr=False)


def pack_data(
    samples: Sequence[Any],
    index: int,
    batch_size: int,
    seq_len: int,
    max_valid_num: int,
    segment_num: int,
    across_rows: bool,
    zero_delimiter_num: int = 0,
    dynamic_inputs: Sequence[str] = (),
    sample_inputs: Sequence[str] = (),
    pair_inputs: Mapping[str, Sequence[int]] | None = None,
    width: int = 0,
) -> PackedData:
    """Pack samples from ``index`` on until the next does not fit.

    Args:
        samples: objects or mappings with ``input_ids`` [L] and, where the model has them, ``attention_mask``,
            ``token_type_ids`` and ``position_ids`` [L].
        index: the first sample to take.
        batch_size: rows of the packed arrays.
        seq_len: columns of the packed arrays.
        max_valid_num: most samples in the pack.
        segment_num: segments of a sample. With more than one, a sample's ``unpack_info`` holds its segments' lengths.
        across_rows: whether a sample may cross rows.
        zero_delimiter_num: zeros between two samples of a row, where samples do not cross rows.
        dynamic_inputs: the names of inputs [L, ...], in place of those above but for the mask; the first gives a
            sample's length.
        sample_inputs: the names of inputs [...] with one row a sample.
        pair_inputs: the names of inputs with a value for each pair of a sample's tokens, [L, L] or with other axes
            too -> their sequence axes in the packed input, as the executable's ``packing.pair_inputs`` has them.
        width: places of a pair input: the executable's longest sample. 0 takes ``seq_len``.

    Returns:
        The pack. Within rows, ``unpack_info`` holds the distances between the starts of samples.

    Raises:
        InputError: a sample lacks an input or its inputs differ in length.
        RequestTooLongError: a sample does not fit an empty pack.
    """
    if across_rows and zero_delimiter_num:
        raise InputError("zero_delimiter_num: samples that cross rows have no delimiters; give 0")
    chosen = samples[index : index + max_valid_num]
    if not len(chosen):
        raise InputError(f"index: no sample {index}, there are {len(samples)}")
    names = _token_inputs(chosen[0], dynamic_inputs, index)
    lengths = [_count(_get(sample, names[0], index + i)) for i, sample in enumerate(chosen)]
    if across_rows:
        places = place_across_rows(lengths, batch_size, seq_len, max_valid_num)
    else:
        tried = place_within_rows(lengths, batch_size, seq_len, max_valid_num, delimiter=zero_delimiter_num)
        places = [place for place in tried if place is not None]
    if not places:
        raise RequestTooLongError(
            f"sample {index} has {lengths[0]} tokens: it fits no pack of {batch_size} x {seq_len}"
        )
    chosen = chosen[: len(places)]
    where = _token_places(places, seq_len)
    streams = _streams(chosen, names, lengths, index)
    data = {name: _scatter(values, where, batch_size, seq_len) for name, values in streams.items()}
    data[ATTENTION_MASK] = _numbered(data[ATTENTION_MASK], places, where, across_rows)
    data |= {name: _sample_rows(chosen, name, max_valid_num, index) for name in sample_inputs}
    for name, axes in (pair_inputs or {}).items():
        pairs = _pairs(chosen, name, axes, lengths, width or seq_len, index)
        data[name] = with_rows(_narrow(name, pairs), max_valid_num)
    info = np.zeros((max_valid_num, segment_num), np.int32)
    info[: len(places)] = _unpack_info(chosen, places, seq_len, segment_num, across_rows, index)
    return PackedData(index + len(places), places, data, info)


def _get(sample: Any, name: str, number: int, required: bool = True) -> Any:
    value = sample.get(name) if isinstance(sample, Mapping) else getattr(sample, name, None)
    if value is None and required:
        raise InputError(f"sample {number} has no {name!r}")
    if value is None:
        return None
    return np.asarray(value).reshape(-1) if name in _ONE_VALUE else np.asarray(value)


def _token_inputs(sample: Any, asked: Sequence[str], index: int) -> list[str]:
    """The inputs of tokens but for the mask; the first gives the lengths."""
    if asked:
        return [name for name in asked if name != ATTENTION_MASK] or [ATTENTION_MASK]
    return [INPUT_IDS, *(name for name in OPTIONAL if _get(sample, name, index, required=False) is not None)]


def _streams(samples: Sequence[Any], names: Sequence[str], lengths: Sequence[int], index: int) -> dict[str, Array]:
    """Lay the values of each input end to end, [T, ...], and those of the mask."""
    streams: dict[str, Array] = {}
    for name in names:
        parts = [_get(sample, name, index + i) for i, sample in enumerate(samples)]
        _check_lengths(name, parts, names[0], lengths, index)
        streams[name] = _narrow(name, _joined(np.concatenate, name, parts, index))
    masks = [_get(sample, ATTENTION_MASK, index + i, required=False) for i, sample in enumerate(samples)]
    masks = [np.ones(length) if mask is None else mask for mask, length in zip(masks, lengths, strict=False)]
    _check_lengths(ATTENTION_MASK, masks, names[0], lengths, index)
    streams[ATTENTION_MASK] = (np.concatenate(masks) != 0).astype(np.int32)
    return streams


def _sample_rows(samples: Sequence[Any], name: str, count: int, index: int) -> Array:
    """One row a sample, [count, ...]."""
    parts = [_get(sample, name, index + i) for i, sample in enumerate(samples)]
    return with_rows(_narrow(name, _joined(np.stack, name, parts, index)), count)


def _pairs(
    samples: Sequence[Any], name: str, axes: Sequence[int], lengths: Sequence[int], width: int, index: int
) -> Array:
    """The pairs of each sample, [n, ..., width, ..., width, ...]; raise InputError for the first of other extents."""
    parts = [_get(sample, name, index + i) for i, sample in enumerate(samples)]
    first = dict(enumerate(parts[0].shape, 1))
    for i, (part, length) in enumerate(zip(parts, lengths, strict=False)):
        expected = [length if axis in axes else first.get(axis, 1) for axis in range(1, max(*first, *axes) + 1)]
        if list(part.shape) != expected:
            raise InputError(
                f"sample {index + i}: {name!r} has the shape {list(part.shape)}, expected {expected}: a value for each "
                f"pair of the sample's {length} tokens"
            )
        if length > width:
            raise RequestTooLongError(f"sample {index + i} has {length} tokens, {name!r} holds {width}: give width")
    return stacked(parts, [width if axis in axes else n for axis, n in first.items()], np.result_type(*parts))


def _joined(join: Callable[[Sequence[Array]], Array], name: str, parts: Sequence[Array], index: int) -> Array:
    """Concatenate or stack the parts of samples; raise InputError for the first that holds other extents."""
    skipped = 1 if join is np.concatenate else 0
    for i, part in enumerate(parts):
        if part.shape[skipped:] != parts[0].shape[skipped:]:
            raise InputError(
                f"sample {index + i}: {name!r} has the shape {list(part.shape)}, that of sample {index} is "
                f"{list(parts[0].shape)}"
            )
    return join(parts)


def _narrow(name: str, values: Array) -> Array:
    """Whole numbers as int32, which engines take; others as they are."""
    return values.astype(np.int32) if name in _ONE_VALUE or values.dtype.kind in "iu" else values


def _check_lengths(name: str, parts: Sequence[Any], leader: str, lengths: Sequence[int], index: int) -> None:
    for i, (part, length) in enumerate(zip(parts, lengths, strict=False)):
        if _count(part) != length or length == 0:
            raise InputError(f"sample {index + i}: {name!r} has {_count(part)} tokens, {leader!r} has {length}")


def _count(tokens: Array) -> int:
    return len(tokens) if tokens.ndim else 0


def _token_places(places: Sequence[Place], columns: int) -> NDArray[np.intp]:
    """Return for each token of the stream its place in the flat packed array."""
    lengths = np.array([place.length for place in places])
    starts = np.array([place.row * columns + place.start for place in places])
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def _scatter(values: Array, where: NDArray[np.intp], rows: int, columns: int) -> Array:
    flat = np.zeros((rows * columns, *values.shape[1:]), values.dtype)
    flat[where] = values
    return flat.reshape(rows, columns, *values.shape[1:])


def _numbered(mask: Ints, places: Sequence[Place], where: NDArray[np.intp], across_rows: bool) -> Ints:
    """Multiply the mask by the sample's number: through the pack, or within its row."""
    numbers: list[int] = []
    for i, place in enumerate(places):
        same_row = i > 0 and (across_rows or places[i - 1].row == place.row)
        numbers.append(numbers[-1] + 1 if same_row else 1)
    flat = mask.reshape(-1)
    flat[where] *= np.repeat(np.array(numbers, np.int32), [place.length for place in places])
    return flat.reshape(mask.shape)


def _unpack_info(
    samples: Sequence[Any], places: Sequence[Place], columns: int, segments: int, across_rows: bool, index: int
) -> Any:
    if not across_rows:
        if segments != 1:
            raise InputError(f"segment_num: samples that share rows have one segment, got {segments}")
        return np.array(stream_distances(places, columns))[:, None]
    if segments == 1:
        return np.array([place.length for place in places])[:, None]
    split = [_get(sample, UNPACK_INFO, index + i)[:segments] for i, sample in enumerate(samples)]
    for i, (counts, place) in enumerate(zip(split, places, strict=True)):
        if len(counts) != segments or counts.sum() != place.length:
            raise InputError(
                f"sample {index + i}: {UNPACK_INFO!r} must hold {segments} lengths that add up to {place.length}"
            )
    return np.stack(split)
