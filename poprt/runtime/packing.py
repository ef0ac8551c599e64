"""Packs samples offline, for programs that feed a model runner with packed arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poprt.errors import InputError, RequestTooLongError
from poprt.runtime.places import Place, place_across_rows, place_within_rows, stream_distances

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
UNPACK_INFO = "unpack_info"
OPTIONAL = ("token_type_ids", "position_ids")

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class PackedData:
    """One pack.

    Attributes:
        count: index of the first sample that is not in this pack; give it to the next call.
        specs: where each sample went, in the order of the samples.
        data: input name -> int32 [rows, seq_len]; the mask's values number the samples.
        unpack_info: int32 [max_valid_num, segment_num], 0 where there is no sample.
    """

    count: int
    specs: list[Place]
    data: dict[str, Ints] = field(repr=False)
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
    lengths = [len(_get(sample, INPUT_IDS, index + i)) for i, sample in enumerate(chosen)]
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
    data = {
        name: _scatter(values, where, batch_size, seq_len) for name, values in _streams(chosen, lengths, index).items()
    }
    data[ATTENTION_MASK] = _numbered(data[ATTENTION_MASK], places, where, across_rows)
    info = np.zeros((max_valid_num, segment_num), np.int32)
    info[: len(places)] = _unpack_info(chosen, places, seq_len, segment_num, across_rows, index)
    return PackedData(index + len(places), places, data, info)


def _get(sample: Any, name: str, number: int, required: bool = True) -> Any:
    value = sample.get(name) if isinstance(sample, Mapping) else getattr(sample, name, None)
    if value is None and required:
        raise InputError(f"sample {number} has no {name!r}")
    return None if value is None else np.asarray(value).reshape(-1)


def _streams(samples: Sequence[Any], lengths: Sequence[int], index: int) -> dict[str, Ints]:
    """Lay the values of each input end to end."""
    names = [INPUT_IDS, *(name for name in OPTIONAL if _get(samples[0], name, index, required=False) is not None)]
    streams: dict[str, Ints] = {}
    for name in names:
        parts = [_get(sample, name, index + i) for i, sample in enumerate(samples)]
        _check_lengths(name, parts, lengths, index)
        streams[name] = np.concatenate(parts).astype(np.int32)
    masks = [_get(sample, ATTENTION_MASK, index + i, required=False) for i, sample in enumerate(samples)]
    masks = [np.ones(length) if mask is None else mask for mask, length in zip(masks, lengths, strict=False)]
    _check_lengths(ATTENTION_MASK, masks, lengths, index)
    streams[ATTENTION_MASK] = (np.concatenate(masks) != 0).astype(np.int32)
    return streams


def _check_lengths(name: str, parts: Sequence[Any], lengths: Sequence[int], index: int) -> None:
    for i, (part, length) in enumerate(zip(parts, lengths, strict=False)):
        if len(part) != length or length == 0:
            raise InputError(f"sample {index + i}: {name!r} has {len(part)} tokens, {INPUT_IDS!r} has {length}")


def _token_places(places: Sequence[Place], columns: int) -> NDArray[np.intp]:
    """Return for each token of the stream its place in the flat packed array."""
    lengths = np.array([place.length for place in places])
    starts = np.array([place.row * columns + place.start for place in places])
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def _scatter(values: Ints, where: NDArray[np.intp], rows: int, columns: int) -> Ints:
    flat = np.zeros(rows * columns, np.int32)
    flat[where] = values
    return flat.reshape(rows, columns)


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
