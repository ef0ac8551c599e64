"""Texts that int8 is measured on: read, tokenised, laid out, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.minilm_folder import write_minilm_folder
from models.texts import texts
from passes.precision.float_to_int8 import METADATA_KEY
from poprt.errors import PoprtError
from poprt.text import PackOptions, TextModel, pack
from poprt.text.folder import samples
from poprt.text.folder.samples import read_sample_texts
from poprt.verify_packed import PackedCase, lay_out
from tests.text_folders import bert_folder, embedding_folder

INT8 = PackOptions(precision="int8", progress=False)


def test_the_packages_own_list_has_many_kinds_and_none_of_the_texts_that_judge() -> None:
    own = read_sample_texts(None)
    assert 60 <= len(own) == len(set(own))
    assert sum(not text.isascii() for text in own) >= 10
    judged = {item.text for item in texts()}
    assert not judged & set(own)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"\xff\xfe\x00", "as UTF-8"), (b" \n\n", "holds no text")]
)
def test_a_file_without_texts_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PoprtError, match=message):
        read_sample_texts(path)


def test_texts_without_int8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoprtError, match="sample_texts: int8 alone"):
        PackOptions(sample_texts=tmp_path / "texts.txt")


def test_a_folder_is_measured_on_texts(tmp_path: Path) -> None:
    folder = embedding_folder(tmp_path / "folder", "mean", normalise=True)
    lines = ["the river in paris was slow", "who is anna?", "a red house by the water", "why", "bread and stone"] * 3
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    options = PackOptions(precision="int8", progress=False, sample_texts=tmp_path / "texts.txt")
    packed = pack(folder, None, options)
    details = next(record.result.details for record in packed.converter.records if record.name == "float_to_int8")
    assert float(details["cosine of sentence_embedding"]) > 0.999
    plain = pack(folder, None, PackOptions(progress=False))
    with TextModel(packed.executable) as got, TextModel(plain.executable) as expected:
        cosines = np.sum(got.encode(lines) * expected.encode(lines), axis=1)
    assert cosines.min() > 0.999


@pytest.mark.parametrize(
    ("head", "architecture", "labels", "asks"),
    [
        ("sequence", "BertForSequenceClassification", 1, True),
        ("qa", "BertForQuestionAnswering", 2, True),
        ("token", "BertForTokenClassification", 3, False),
    ],
)
def test_texts_are_framed_as_the_task_asks_for_them(
    head: str, architecture: str, labels: int, asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bert_folder(tmp_path, head, architecture, labels=labels)
    feeds: list[dict[str, np.ndarray]] = []

    def lay_out_and_look(*arguments: Any) -> PackedCase:
        case = lay_out(*arguments)
        feeds.append(case.converted_feeds)
        return case

    monkeypatch.setattr(samples, "lay_out", lay_out_and_look)
    packed = pack(folder, None, INT8)
    assert json.loads(packed.executable.manifest.metadata[METADATA_KEY])["data"] == "real"
    assert any(run["token_type_ids"].any() for run in feeds) == asks


@pytest.mark.minilm
def test_the_real_model_keeps_its_embeddings_and_neighbours(tmp_path: Path) -> None:
    folder = write_minilm_folder(tmp_path / "minilm")
    lines = [item.text for item in texts()[:120]]
    vectors = []
    for options in (PackOptions(progress=False), INT8):
        with TextModel(pack(folder, None, options).executable) as model:
            vectors.append(model.encode(lines))
    cosines = np.sum(vectors[0] * vectors[1], axis=1)
    assert cosines.mean() >= 0.999
    assert cosines.min() >= 0.997
