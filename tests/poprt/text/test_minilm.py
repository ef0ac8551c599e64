"""The real MiniLM from its folder: as the original model, text by text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.minilm import MiniLM
from models.minilm_folder import write_minilm_folder
from models.texts import texts
from poprt.text import PackOptions, TextModel, pack
from tests.numerics import one_by_one, session

pytestmark = pytest.mark.minilm


def test_embeddings_are_those_of_the_original_text_by_text(minilm: MiniLM, tmp_path: Path) -> None:
    lines = [item.text for item in texts()[:60]]
    expected = [item["embedding"] for item in one_by_one(session(minilm.model, threads=2), minilm.tokenize(lines))]
    packed = pack(write_minilm_folder(tmp_path / "minilm"), tmp_path / "minilm.popef", PackOptions(progress=False))
    assert (packed.facts.max_length, packed.facts.pooling, packed.facts.normalised) == (256, "mean", True)
    with TextModel(tmp_path / "minilm.popef") as model:
        vectors = model.encode(lines)
    np.testing.assert_allclose((vectors * np.stack(expected)).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors, expected, atol=2e-5)
