"""Embeddings that are cut short: which sizes a folder declares, and what comes of a cut."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from poprt.errors import DamagedExecutableError, InputError, PoprtError
from poprt.executable import TEXT, Executable
from poprt.text import PackOptions, TextModel, pack
from poprt.text.dimensions import check_dimensions, shortened
from poprt.text.facts import TextFacts, read_facts
from poprt.text.folder.dimensions import read_dimensions
from poprt.text.folder.files import ModelFolder
from tests.text_folders import HIDDEN, bert_folder, embedding_folder, write_json

TEXTS = ["the bank of new york", "a river", "anna sold the old house"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    folder = embedding_folder(
        tmp_path_factory.mktemp("matryoshka"), "mean", normalise=True, matryoshka_dimensions=[16, 8, HIDDEN, 2 * HIDDEN]
    )
    return TextModel(pack(folder, None, PackOptions(progress=False)).executable)


#: By how much a number of order 1 may move with its company, in float32.
MOVED = 3e-6


def facts(**fields: object) -> TextFacts:
    return TextFacts("m", "embedding", ("y",), 8, **{"dimension": 4, **fields})  # type: ignore[arg-type]


def test_a_cut_embedding_is_the_first_values_at_length_one(model: TextModel) -> None:
    whole = model.encode(TEXTS)
    cut = model.encode(TEXTS, dimensions=8)
    assert cut.shape == (3, 8)
    assert cut.dtype == np.float32
    np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=MOVED)
    assert model.encode(TEXTS[0], dimensions=8).shape == (8,)
    assert model.encode([], dimensions=8).shape == (0, 8)
    # Which texts share a run is not the same twice, and moves the last digit.
    np.testing.assert_allclose(model.encode(TEXTS, dimensions=HIDDEN), whole, atol=MOVED)


async def _cut(model: TextModel) -> np.ndarray:
    return await model.aencode(TEXTS, dimensions=16)


def test_an_event_loop_gets_the_same(model: TextModel) -> None:
    import asyncio

    np.testing.assert_allclose(asyncio.run(_cut(model)), model.encode(TEXTS, dimensions=16), atol=MOVED)


def test_a_size_that_is_not_declared_is_refused_before_anything_runs(model: TextModel) -> None:
    assert model.facts.dimensions == (8, 16)
    for size in (7, 0, -8, HIDDEN + 1, True, 8.0, "8"):
        with pytest.raises(InputError, match=rf"dimensions is {size!r}, expected one of 8, 16 or {HIDDEN}"):
            model.encode([object()], dimensions=size)  # type: ignore[list-item, arg-type]


def test_vectors_that_were_not_normalised_stay_so() -> None:
    vectors = np.array([[3, 4, 12, 0], [0, 0, 5, 1]], np.float32)
    np.testing.assert_array_equal(shortened(vectors, 2, facts()), vectors[:, :2])
    unit = shortened(vectors, 2, facts(normalised=True))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]], rtol=1e-6)  # a vector of zeros stays one


def test_a_model_without_sizes_says_so() -> None:
    with pytest.raises(InputError, match="dimensions is 2, the model declares no other size than 4"):
        check_dimensions(facts(), 2)
    assert check_dimensions(facts(), 4) == check_dimensions(facts(), None) == 4
    many = facts(dimension=400, dimensions=tuple(range(1, 400)))
    assert check_dimensions(many, 399) == 399
    with pytest.raises(InputError, match=r"expected one of 1, 2, .*, 12, \.\.\. or 400"):
        check_dimensions(many, 401)


@pytest.mark.parametrize(
    ("config", "sentence", "sizes"),
    [
        ({}, {}, ()),
        ({"matryoshka_dimensions": [32, 16, 64]}, {}, (16, 32)),
        ({"matryoshka_dimensions": None, "truncate_dim": None}, {"truncate_dim": None}, ()),
        ({"truncate_dim": 12}, {"truncate_dim": 24}, (12, 24)),
        ({"is_matryoshka": True, "matryoshka_dimensions": [8]}, {}, tuple(range(1, 64))),
        ({"is_matryoshka": False, "matryoshka_dimensions": [8]}, {}, (8,)),
    ],
)
def test_sizes_are_read_where_models_declare_them(
    config: dict[str, object], sentence: dict[str, object], sizes: tuple[int, ...], tmp_path: Path
) -> None:
    assert read_dimensions(folder_with(config, sentence, tmp_path), 64, None) == sizes


def folder_with(config: dict[str, object], sentence: dict[str, object], path: Path) -> ModelFolder:
    for name in ("model.onnx", "tokenizer.json"):
        (path / name).touch()
    write_json(path / "config.json", config)
    write_json(path / "config_sentence_transformers.json", sentence)
    return ModelFolder(path)


@pytest.mark.parametrize("sizes", [64, "64", [0], [True], [8.5], {"a": 8}])
def test_sizes_that_are_none_are_named(sizes: object, tmp_path: Path) -> None:
    folder = folder_with({"matryoshka_dimensions": sizes}, {}, tmp_path)
    with pytest.raises(PoprtError, match=r"config\.json.*: matryoshka_dimensions is .*, expected a list of whole"):
        read_dimensions(folder, 64, None)


def test_the_caller_may_say_the_sizes(tmp_path: Path) -> None:
    folder = folder_with({"matryoshka_dimensions": [8]}, {}, tmp_path)
    assert read_dimensions(folder, 64, (32, 16)) == (16, 32)
    assert read_dimensions(folder, 64, ()) == ()
    with pytest.raises(PoprtError, match="dimensions: 65 is more than an embedding has"):
        read_dimensions(folder, 64, (65,))
    with pytest.raises(PoprtError, match=r"dimensions is \(0,\), expected whole numbers"):
        PackOptions(dimensions=(0,))


def test_a_classifier_has_nothing_to_cut(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path, "sequence", "BertForSequenceClassification")
    with pytest.raises(PoprtError, match="dimensions: the model is for sequence-classification"):
        pack(folder, None, PackOptions(progress=False, dimensions=(8,)))


@pytest.mark.parametrize("sizes", [[8, 8], [16, 8], [0], [HIDDEN], [HIDDEN + 1]])
def test_sizes_in_a_file_must_ascend_below_the_whole(sizes: list[int], embedder_path: Path) -> None:
    executable = Executable(embedder_path)
    body = {**json.loads(executable.texts[TEXT]), "dimensions": sizes}
    with pytest.raises(DamagedExecutableError, match=r"text\.json field 'dimensions' is .*, expected ascending sizes"):
        read_facts(json.dumps(body).encode(), executable.manifest)


def test_a_file_of_before_has_no_sizes(embedder_path: Path) -> None:
    executable = Executable(embedder_path)
    body = json.loads(executable.texts[TEXT])
    del body["dimensions"]
    assert read_facts(json.dumps(body).encode(), executable.manifest).dimensions == ()
    assert "dimensions" in {item.name for item in dataclasses.fields(TextFacts)}
