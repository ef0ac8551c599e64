import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprt.errors import InputError, RequestTooLongError
from poprt.runtime import PackAlgorithm, pack_data
from poprt.runtime.places import place_across_rows, place_within_rows, stream_distances

LENGTHS = [3, 4, 2, 5, 1]

lengths_in_rows = st.lists(st.integers(1, 8), min_size=1, max_size=30)


def samples(lengths, **extra):
    return [{"input_ids": np.arange(n) + 10 * i, **extra} for i, n in enumerate(lengths, start=1)]


def packed(lengths=LENGTHS, **options):
    settings = {"batch_size": 3, "seq_len": 8, "max_valid_num": 5, "segment_num": 1, "across_rows": True, **options}
    return pack_data(samples(lengths), 0, **settings)


def mask_text(pack):
    return [" ".join(map(str, row)) for row in pack.data["attention_mask"]]


def test_samples_that_cross_rows_are_laid_end_to_end():
    pack = packed()
    assert mask_text(pack) == ["1 1 1 2 2 2 2 3", "3 4 4 4 4 4 5 0", "0 0 0 0 0 0 0 0"]
    assert pack.unpack_info.tolist() == [[3], [4], [2], [5], [1]]
    assert pack.data["input_ids"].reshape(-1)[:15].tolist() == [10, 11, 12, 20, 21, 22, 23, 30, 31, *range(40, 45), 50]


def test_samples_that_share_rows_are_numbered_in_each_row():
    pack = packed(across_rows=False)
    assert mask_text(pack) == ["1 1 1 2 2 2 2 0", "1 1 2 2 2 2 2 3", "0 0 0 0 0 0 0 0"]


def test_delimiters_lie_between_samples_and_unpack_info_steps_over_them():
    pack = packed(across_rows=False, zero_delimiter_num=1)
    assert mask_text(pack) == ["1 1 1 0 2 2 2 2", "1 1 0 2 2 2 2 2", "1 0 0 0 0 0 0 0"]
    assert pack.unpack_info.tolist() == [[4], [4], [3], [5], [8]]


def test_pack_data_goes_on_where_the_last_pack_ended():
    all_samples = samples(LENGTHS * 3)
    index, seen = 0, []
    while index < len(all_samples):
        pack = pack_data(all_samples, index, 1, 8, 4, 1, True)
        assert pack.count == index + len(pack.specs)
        seen += [place.length for place in pack.specs]
        index = pack.count
    assert seen == LENGTHS * 3


def test_pack_data_takes_no_more_than_max_valid_num_and_pads_unpack_info():
    pack = packed(max_valid_num=2)
    assert (pack.count, pack.unpack_info.shape) == (2, (2, 1))
    assert packed(max_valid_num=9).unpack_info[5:].tolist() == [[0]] * 4


def test_pack_data_reads_attributes_and_keeps_a_masked_token_masked():
    class Sample:
        input_ids = np.array([5, 6, 7])
        attention_mask = np.array([1, 0, 1])
        token_type_ids = np.array([0, 1, 1])

    pack = pack_data([Sample(), Sample()], 0, 1, 8, 2, 1, True)
    assert mask_text(pack) == ["1 0 1 2 0 2 0 0"]
    assert set(pack.data) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(array.dtype == np.int32 for array in pack.data.values())


def test_pack_data_names_a_sample_that_fits_no_pack():
    with pytest.raises(RequestTooLongError, match="sample 0 has 9 tokens"):
        packed([9], across_rows=False)


def test_pack_data_names_the_input_whose_length_differs():
    with pytest.raises(InputError, match="'token_type_ids' has 2 tokens, 'input_ids' has 3"):
        pack_data(samples([3], token_type_ids=np.zeros(2)), 0, 1, 8, 2, 1, True)


def test_several_segments_come_from_the_sample_itself():
    pack = pack_data(samples([5], unpack_info=np.array([2, 3])), 0, 1, 8, 2, 2, True)
    assert pack.unpack_info.tolist() == [[2, 3], [0, 0]]


def test_first_fit_returns_to_an_earlier_row_and_next_fit_does_not():
    first = place_within_rows([5, 6, 3], 2, 8, 9, PackAlgorithm.first_fit)
    following = place_within_rows([5, 6, 2], 2, 8, 9, PackAlgorithm.next_fit)
    assert [(p.row, p.start) for p in first] == [(0, 0), (1, 0), (0, 5)]
    assert [(p.row, p.start) for p in following] == [(0, 0), (1, 0), (1, 6)]


@given(lengths_in_rows, st.integers(1, 6), st.integers(1, 12))
def test_across_rows_places_a_prefix_without_gaps_or_overlap(lengths, rows, most):
    places = place_across_rows(lengths, rows, 8, most)
    used = 0
    for place, length in zip(places, lengths, strict=False):
        assert place.row * 8 + place.start == used
        assert place.length == length
        used += length
    assert used <= rows * 8
    assert len(places) <= most
    if len(places) < min(most, len(lengths)):
        assert used + lengths[len(places)] > rows * 8


@given(lengths_in_rows, st.integers(1, 6), st.integers(1, 12), st.sampled_from(PackAlgorithm), st.integers(0, 3))
def test_within_rows_samples_neither_overlap_nor_cross_a_row(lengths, rows, most, algorithm, delimiter):
    places = place_within_rows(lengths, rows, 8, most, algorithm, delimiter)
    assert len(places) == len(lengths)
    placed = [place for place in places if place is not None]
    assert 1 <= len(placed) <= most
    by_row = {}
    for place in placed:
        by_row.setdefault(place.row, []).append(place)
    for row, inside in by_row.items():
        assert 0 <= row < rows
        assert inside[-1].start + inside[-1].length <= 8
        for before, after in itertools.pairwise(inside):
            assert after.start == before.start + before.length + delimiter
    if algorithm is PackAlgorithm.next_fit:
        assert places[: len(placed)] == placed
        assert placed == sorted(placed, key=lambda p: (p.row, p.start))


@given(lengths_in_rows, st.integers(0, 2))
def test_distances_lead_from_each_sample_to_the_next_and_to_the_row_end(lengths, delimiter):
    places = [p for p in place_within_rows(lengths, 4, 8, 99, delimiter=delimiter) if p is not None]
    at = 0
    for place, distance in zip(places, stream_distances(places, 8), strict=True):
        assert place.row * 8 + place.start == at
        assert distance >= place.length
        at += distance
    assert at % 8 == 0
