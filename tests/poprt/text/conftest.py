"""Executables of tiny text models, made once a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from poprt.text import PackOptions, TextModel, pack
from tests.text_folders import embedding_folder, write_json

PROMPTS = {"prompts": {"query": "how my ", "plain": ""}, "default_prompt_name": None, "similarity_fn_name": "cosine"}


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = embedding_folder(tmp_path_factory.mktemp("embedder"), "mean")
    write_json(folder / "config_sentence_transformers.json", PROMPTS)
    return folder


@pytest.fixture(scope="session")
def embedder_path(embedder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("popef") / "embedder.popef"
    pack(embedder_folder, path, PackOptions(progress=False))
    return path


@pytest.fixture(scope="session")
def embedder(embedder_path: Path) -> Iterator[TextModel]:
    with TextModel(embedder_path) as model:
        yield model
