"""Pictures of many sizes, drawn from a seed, and cut into the patches that an encoder takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.vectors import PATCH

#: Patches of a picture, and how far its sides differ.
FEWEST, MOST, LONGEST_SIDE = 64, 576, 2.0
#: Rows and columns of patches that pictures have.
_GRIDS = [
    (rows, columns)
    for rows in range(1, MOST + 1)
    for columns in range(1, MOST // rows + 1)
    if rows * columns >= FEWEST and max(rows, columns) <= LONGEST_SIDE * min(rows, columns)
]

Image = NDArray[np.float32]


def pictures(count: int, seed: int = 0) -> list[Image]:
    """Coloured clouds with some grain, float32 [height, width, 3] from -1 to 1; sides are any number of pixels.

    Each grid of 64 to 576 patches whose sides differ by up to 2 to 1 is as likely as the others, so that numbers of
    patches are spread evenly.
    """
    rng = np.random.default_rng(seed)
    return [_picture(rng) for _ in range(count)]


def _picture(rng: np.random.Generator) -> Image:
    rows, columns = rng.choice(_GRIDS)
    height, width = (int(side) * PATCH + int(rng.integers(1 - PATCH // 2, PATCH // 2)) for side in (rows, columns))
    clouds = resize(rng.uniform(-1, 1, (6, 6, 3)).astype(np.float32), height, width)
    grain = rng.standard_normal((height, width, 3), np.float32)
    return np.clip(clouds + np.float32(0.05) * grain, -1, 1)


def resize(image: Image, height: int, width: int) -> Image:
    """The image at another size, straight lines between neighbours."""
    return _stretch(_stretch(image, height, 0), width, 1)


def _stretch(image: Image, extent: int, axis: int) -> Image:
    last = image.shape[axis] - 1
    places = np.clip((np.arange(extent) + 0.5) * image.shape[axis] / extent - 0.5, 0, last)
    below = places.astype(int)
    share = np.expand_dims((places - below).astype(np.float32), [other for other in range(3) if other != axis])
    between: Image = image.take(below, axis) * (1 - share) + image.take(np.minimum(below + 1, last), axis) * share
    return between


def cut(image: Image) -> dict[str, NDArray[Any]]:
    """The encoder's inputs for an image at its own aspect ratio: each side goes to the nearest whole patch.

    250 x 130 pixels are 16 x 8 patches: patches [128, 768], attention_mask, row_ids and column_ids [128].
    """
    rows, columns = (max(1, round(side / PATCH)) for side in image.shape[:2])
    tiles = resize(image, rows * PATCH, columns * PATCH).reshape(rows, PATCH, columns, PATCH, 3)
    row_ids, column_ids = np.indices((rows, columns)).reshape(2, -1)
    return {
        "patches": tiles.transpose(0, 2, 1, 3, 4).reshape(rows * columns, PATCH * PATCH * 3),
        "attention_mask": np.ones(rows * columns, np.int64),
        "row_ids": row_ids,
        "column_ids": column_ids,
    }
