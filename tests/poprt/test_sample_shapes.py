"""Shapes of sample data: extents that the model leaves open get sizes that fit each other and the kind of input."""

from __future__ import annotations

import numpy as np
import pytest

from poprt.input_info import InputInfo, sample_shapes

Extents = tuple[int | str | None, ...]


def info(name: str, shape: Extents, kind: str = "numbers") -> InputInfo:
    return InputInfo(name, np.dtype(np.float32), shape, kind)


def test_an_extent_of_one_name_has_one_size_wherever_it_stands() -> None:
    shapes = sample_shapes([info("x", ("B", "T", 80)), info("state", (2, "B", 64)), info("weights", ("T",), "mask")])
    assert shapes == {"x": (2, 16, 80), "state": (2, 2, 64), "weights": (16,)}


def test_a_sum_of_names_has_the_sum_of_their_sizes() -> None:
    ids, mask = info("ids", ("B", "S"), "ids"), info("mask", ("B", "P + S"), "mask")
    past = info("past", ("B", 4, "P", 8))
    assert sample_shapes([mask, ids, past])["mask"] == (2, 32)
    assert sample_shapes([info("mask", ("B", "S + 1"), "mask"), ids])["mask"] == (2, 17)
    assert sample_shapes([info("mask", ("B", "S + other"), "mask"), ids])["mask"] == (2, 16)


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((None, 3, None, None), "numbers", (2, 3, 64, 64)),
        ((None, None, None, 3), "bytes", (2, 64, 64, 3)),
        ((None, None), "numbers", (2, 512)),
        ((1, 1, "T"), "numbers", (1, 1, 512)),
        ((None, None), "mask", (2, 16)),
        ((None, None, 80), "numbers", (2, 16, 80)),
        ((None, 1, None, 64), "numbers", (2, 1, 16, 64)),
    ],
)
def test_pictures_and_sound_are_large_enough(shape: Extents, kind: str, expected: tuple[int, ...]) -> None:
    assert sample_shapes([info("x", shape, kind)]) == {"x": expected}


def test_the_state_of_a_recurrence_has_the_batch_of_the_other_inputs() -> None:
    sound, state = info("sound", (None, None)), info("state", (2, None, 128))
    assert sample_shapes([sound, state])["state"] == (2, 2, 128)
    assert sample_shapes([info("sound", (1, 512)), state])["state"] == (2, 16, 128)
