"""Lay samples of random lengths into a packed model's inputs, and find each one's share of the outputs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from poprt.runtime.buffers import stacked, with_rows
from poprt.runtime.places import Place, stream_distances
from poprt.sample_data import Array, InputInfo, check_size, random_array
from poprt_format.packing import ANY, NONE, Packing

_FEW = 8  # enough samples to cross rows and share them; each costs a run of the original
_OPEN_ROWS = 3  # where the model leaves the number of rows open


@dataclass(frozen=True)
class PackedCase:
    """Data for one comparison.

    Attributes:
        original_feeds: one dict of arrays a run of the original model.
        converted_feeds: the inputs of the one run of the converted model.
        layouts: output name -> "tokens", "sample" or "packed"; empty where the model is not packed.
        places: per sample, its flat places in the packed [R * C] stream.
        columns: per sample, its columns in an unpacked row.
        answered: per sample, the columns of its answer.
    """

    original_feeds: list[dict[str, Array]]
    converted_feeds: dict[str, Array]
    layouts: Mapping[str, str]
    places: Sequence[Array] = ()
    columns: Sequence[Array] = ()
    answered: Sequence[Array] = ()

    def pair(self, name: str, expected: Array, output: Array, index: int) -> tuple[Array, Array]:
        """What to compare for sample ``index``: its part of the original's output ``expected`` and of ``output``.

        Only places of real tokens are compared: between segments the original computes padding.
        """
        layout = self.layouts.get(name)
        if layout is None:
            return expected, output
        if layout == "packed":
            return expected[0][self.columns[index]], output.reshape(-1, *output.shape[2:])[self.places[index]]
        corner: Array = output[index][tuple(slice(0, extent) for extent in expected.shape[1:])]
        if layout == "tokens":
            return expected[0][self.answered[index]], corner[self.answered[index]]
        return expected[0], corner


def as_declared(feeds: Mapping[str, Array], shapes: Mapping[str, Sequence[object]]) -> dict[str, Array]:
    """A sample as a model of fixed extents takes it: filled up with zeros, and repeated along the batch.

    A sample [1, 7] for a model of [4, 128]: 7 tokens and 121 zeros, four times.

    Args:
        feeds: the sample, [1, ...] each.
        shapes: what the model declares by name; a number is fixed.
    """
    fitted = {}
    for name, array in feeds.items():
        declared = shapes.get(name, ())
        if len(declared) != array.ndim or not array.ndim:
            fitted[name] = array
            continue
        room = [
            max(0, extent - own) if isinstance(extent, int) else 0
            for extent, own in zip(declared, array.shape, strict=True)
        ]
        longer = np.pad(array, [(0, 0), *((0, more) for more in room[1:])])
        fitted[name] = longer.repeat(1 + room[0], axis=0) if len(array) == 1 else longer
    return fitted


def pack_samples(
    packing: Packing,
    originals: Sequence[InputInfo],
    converted: Sequence[InputInfo],
    rng: np.random.Generator,
    *,
    most_samples: int = _FEW,
    length: int | None = None,
) -> PackedCase:
    """Samples for a packed model.

    Args:
        packing: how the model is packed.
        originals, converted: the inputs of both models.
        rng: where lengths and values come from.
        most_samples: how many to make; the pack's capacity limits them as well.
        length: the tokens of each sample; None draws them. Of samples of one segment.
    """
    packing = replace(packing, rows=packing.rows or _OPEN_ROWS, columns=packing.columns or packing.width)
    lengths = _draw_lengths(packing, rng, most_samples)
    if length is not None:
        lengths = np.full_like(lengths, length)
    fitting = lengths[: len(_place_samples(lengths, packing))]
    of_run = draw_run(originals, packing, rng)
    samples = [{**draw_sample(originals, packing, sample_lengths, rng), **of_run} for sample_lengths in fitting]
    return lay_out(packing, samples, fitting, converted)


def lay_out(
    packing: Packing,
    samples: Sequence[dict[str, Array]],
    lengths: Array,
    converted: Sequence[InputInfo],
) -> PackedCase:
    """The inputs of the converted model for these samples, placed one after the other.

    Args:
        packing: how the model is packed; ``rows`` and ``columns`` are known.
        samples: as :func:`draw_sample` makes them; all of them must fit.
        lengths: the tokens of each by segment, int [n, segments].
        converted: the inputs of the converted model.
    """
    places = _place_samples(lengths, packing)
    columns = [sample_columns(sample, packing.segment_max_size) for sample in lengths]
    feeds = {}
    for info in converted:
        if info.name == packing.unpack_info:
            check_size(info.name, (packing.max_valid_num, len(packing.segment_max_size)))
            table = np.zeros((packing.max_valid_num, len(packing.segment_max_size)), info.dtype)
            table[: len(lengths)] = _distances(places, packing.columns) if packing.within_rows else lengths
            feeds[info.name] = table
        elif info.name in packing.dynamic_inputs:
            feeds[info.name] = _stream(info, samples, places, columns, packing)
        elif info.name in packing.run_inputs:
            feeds[info.name] = samples[0][info.name].astype(info.dtype)
        else:
            feeds[info.name] = _per_sample(info, samples, packing)
    answered = [answer_columns(own, packing) for own in columns]
    return PackedCase(list(samples), feeds, packing.outputs, places, columns, answered)


def _draw_lengths(packing: Packing, rng: np.random.Generator, most: int) -> Array:
    """Lengths [n, segments], each at least 1. The first sample is as long as one may be, the others half as long at
    most, so that several share a row.

    A converted model fills each sample up to the longest that it takes. Where that would show in an answer
    (``neighbours``), all are as long as that; where samples of a run would mix, there is one.
    """
    longest = np.minimum(np.array(packing.segment_max_size), packing.columns)
    least = min(packing.shortest, int(longest[0]))
    if packing.neighbours != ANY:
        most = 1 if packing.neighbours == NONE else min(most, packing.max_valid_num)
        return np.tile(longest, (most, 1))
    drawn = rng.integers(
        least, np.maximum(longest // 2 + 2, least + 1), size=(min(most, packing.max_valid_num), len(longest))
    )
    drawn[0] = longest
    return np.asarray(drawn)


def _place_samples(lengths: Array, packing: Packing) -> list[Array]:
    """Flat places of each sample that fits, end to end; within one row where samples share rows."""
    rows, columns = packing.rows, packing.columns
    places: list[Array] = []
    start = 0
    for total in lengths.sum(axis=1):
        if packing.within_rows and start % columns + total > columns:
            start = (start // columns + 1) * columns
        if start + total > rows * columns:
            break
        places.append(np.arange(start, start + total))
        start += int(total)
    return places


def _distances(places: Sequence[Array], width: int) -> Array:
    """What a final Unpack over shared rows reads, [n, 1]: it has to step over the unused end of each row."""
    starts = [Place(int(where[0]) // width, int(where[0]) % width, len(where)) for where in places]
    return np.array(stream_distances(starts, width))[:, None]


def sample_columns(sample: Array, longest: Sequence[int]) -> Array:
    """Where a sample's tokens lie in an unpacked row: each segment at the start of its own columns."""
    starts = np.cumsum([0, *longest[:-1]])
    return np.concatenate([start + np.arange(length) for start, length in zip(starts, sample, strict=True)])


def answer_columns(own: Array, packing: Packing) -> Array:
    """The columns of the answer to a sample with the columns ``own``: the same, unless a front end leaves others."""
    return own if len(packing.segment_max_size) > 1 else np.arange(packing.places(len(own)))


def draw_run(originals: Sequence[InputInfo], packing: Packing, rng: np.random.Generator) -> dict[str, Array]:
    """The inputs of the original model that have one value for all samples of a run."""
    return {
        info.name: random_array(info, info.concrete(), rng) for info in originals if info.name in packing.run_inputs
    }


def draw_sample(
    originals: Sequence[InputInfo], packing: Packing, lengths: Array, rng: np.random.Generator
) -> dict[str, Array]:
    """One sample for the original model, unpadded; with several segments, padding fills the gaps between them.

    It lacks the inputs of a run, which :func:`draw_run` makes for all samples.

    Args:
        originals: the inputs of the original model.
        packing: how the model is packed.
        lengths: the sample's tokens by segment, int [segments].
        rng: where the values come from.
    """
    columns = sample_columns(lengths, packing.segment_max_size)
    width = int(columns[-1]) + 1
    feeds = {}
    for info in originals:
        if info.name in packing.run_inputs:
            continue
        if info.name not in packing.dynamic_inputs:
            of_sample = replace(info, rows=info.rows or width) if info.kind in ("lengths", "places") else info
            shape = (1, *info.concrete()[1:])
            if info.name in packing.pair_inputs:
                shape = packing.pair_shape(info.name, shape, width)
            feeds[info.name] = random_array(of_sample, shape, rng)
            continue
        token = () if info.any_rank else info.concrete()[2:]  # without a rank, --input_shape said [batch, sequence]
        shape = (1, width, *token)
        if info.name == packing.mask:
            mask = np.zeros(shape, info.dtype)  # ids serve as the mask where the model derives it from them
            is_content = info.kind == "ids" or len(shape) > 2
            mask[0, columns] = random_array(info, shape, rng)[0, columns] if is_content else 1
            feeds[info.name] = mask
        else:
            feeds[info.name] = random_array(info, shape, rng)
    return feeds


def _stream(
    info: InputInfo,
    samples: Sequence[Mapping[str, Array]],
    places: Sequence[Array],
    columns: Sequence[Array],
    packing: Packing,
) -> Array:
    rows, width = packing.rows, packing.columns
    rest = samples[0][info.name].shape[2:] if info.name in samples[0] else ()
    check_size(info.name, (rows, width, *rest))
    stream = np.zeros((rows * width, *rest), info.dtype)
    numbers: dict[int, int] = {}
    for sample, where, taken in zip(samples, places, columns, strict=True):
        if info.name == packing.mask and packing.within_rows:
            row = int(where[0]) // width
            numbers[row] = numbers.get(row, 0) + 1
            stream[where] = numbers[row]  # the mask tells the samples of a row apart by their numbers
        elif info.name in sample:
            stream[where] = sample[info.name][0, taken]
        else:  # positions that packing added to the inputs
            stream[where] = taken
    return stream.reshape(rows, width, *rest)


def _per_sample(info: InputInfo, samples: Sequence[Mapping[str, Array]], packing: Packing) -> Array:
    """An input with one row, or one value a pair of places, a sample: [max_valid_num, ...]."""
    shape = (packing.max_valid_num, *samples[0][info.name].shape[1:])
    if info.name in packing.pair_inputs:
        shape = packing.pair_shape(info.name, shape, packing.width)
    check_size(info.name, shape)
    rows = [sample[info.name][0] for sample in samples]
    return with_rows(stacked(rows, shape[1:], info.dtype), packing.max_valid_num)
