"""The sizes to which a model's embeddings may be cut, as the folder declares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poprt.errors import PoprtError
from poprt.text.folder.files import ModelFolder


def read_dimensions(folder: ModelFolder, dimension: int, asked: Sequence[int] | None) -> tuple[int, ...]:
    """Sizes in ascending order, each below ``dimension``; empty where nothing declares any.

    ``matryoshka_dimensions`` of ``config.json`` lists them, ``is_matryoshka`` there allows each, and ``truncate_dim``
    there or in ``config_sentence_transformers.json`` is one.

    Args:
        folder: the model's.
        dimension: length of an embedding.
        asked: sizes that the caller says instead.

    Raises:
        PoprtError: a size is none, or one that was asked for is longer than an embedding.
    """
    if asked is not None:
        longer = next((size for size in asked if size > dimension), None)
        if longer is not None:
            raise PoprtError(f"dimensions: {longer} is more than an embedding has ({dimension})")
        return _ascending(asked, dimension)
    if folder.config.get("is_matryoshka") is True:
        return tuple(range(1, dimension))
    sizes = list(_listed(folder, folder.config.get("matryoshka_dimensions")))
    for file in ("config.json", "config_sentence_transformers.json"):
        sizes.append(folder.whole(folder.table(file), "truncate_dim", file))
    return _ascending(sizes, dimension)


def _listed(folder: ModelFolder, sizes: Any) -> Sequence[int]:
    sizes = [] if sizes is None else sizes
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        path = folder.path / "config.json"
        raise PoprtError(f"{str(path)!r}: matryoshka_dimensions is {sizes!r}, expected a list of whole numbers")
    return sizes


def _ascending(sizes: Sequence[int], dimension: int) -> tuple[int, ...]:
    """Without those that are no shorter than an embedding: an export may end in a smaller layer than the model."""
    return tuple(sorted({size for size in sizes if 0 < size < dimension}))
