"""Pictures are cut into patches at their own aspect ratio, and an encoder of vectors takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.images import FEWEST, MOST, cut, pictures, resize
from models.vectors import SIDE, SIZES, VectorConfig, build_vectors, patch_config
from tests.numerics import one_by_one


def test_pictures_are_the_same_for_the_same_seed_and_have_64_to_576_patches() -> None:
    images = pictures(200)
    patches = [len(cut(image)["patches"]) for image in images]
    assert FEWEST <= min(patches) < 128
    assert 512 < max(patches) <= MOST
    assert 280 < np.mean(patches) < 360  # spread evenly
    for image, again in zip(images[:3], pictures(3), strict=True):
        np.testing.assert_array_equal(image, again)
    assert max(cut(image)["column_ids"].max() for image in images) < SIDE


def test_a_patch_holds_the_pixels_of_its_row_and_column() -> None:
    image = np.random.default_rng(0).random((32, 48, 3), np.float32)
    sample = cut(image)
    np.testing.assert_array_equal(sample["row_ids"], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(sample["column_ids"], [0, 1, 2, 0, 1, 2])
    np.testing.assert_allclose(sample["patches"][4].reshape(16, 16, 3), image[16:, 16:32], atol=1e-6)


def test_sides_go_to_the_nearest_whole_patch() -> None:
    assert cut(np.zeros((250, 130, 3), np.float32))["patches"].shape == (16 * 8, 768)
    assert cut(np.zeros((3, 16, 3), np.float32))["patches"].shape == (1, 768)


def test_resizing_draws_straight_lines_between_pixels() -> None:
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None], (4, 2, 3))
    np.testing.assert_allclose(resize(ramp, 8, 2)[:, 0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert resize(ramp, 8, 5).shape == (8, 5, 3)


def test_an_encoder_of_vectors_tells_places_apart() -> None:
    sample = cut(pictures(1)[0])
    mirrored = {**sample, "column_ids": sample["column_ids"][::-1]}
    one, other = one_by_one(build_vectors(patch_config("tiny")), [sample, mirrored])
    np.testing.assert_allclose(np.linalg.norm(one["embedding"]), 1, rtol=1e-5)
    assert np.abs(one["embedding"] - other["embedding"]).max() > 1e-3


def test_the_rows_of_a_tokens_ids_are_summed_whatever_their_order() -> None:
    model = build_vectors(VectorConfig("atoms", 3, table=20, head="hidden", **SIZES["tiny"]))
    atoms = np.array([[1, 2, 3], [4, 5, 6]])
    batch = [{"atoms": each, "attention_mask": np.ones(2, np.int64)} for each in (atoms, atoms[:, ::-1], atoms + 1)]
    one, turned, other = (answer["last_hidden_state"] for answer in one_by_one(model, batch))
    assert one.shape == (2, 64)
    np.testing.assert_allclose(one, turned, atol=1e-5)
    assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"head": "qa"}, "unknown head 'qa'; choose one of mean, hidden"),
        ({"dialect": "old"}, "unknown dialect 'old'; choose one of old-torch, new-torch"),
        ({"hidden": 10, "heads": 3}, "hidden=10 is not a multiple of heads=3"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        VectorConfig("patches", 4, **fields)
