"""Folders that cannot be packed: one line each that says what is missing and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from tokenizers import Tokenizer

from poprt.errors import PoprtError
from poprt.text import PackOptions, pack
from tests.text_folders import HIDDEN, bert_folder, embedding_folder, write_json, write_pooling, write_tokenizer


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedding_folder(tmp_path_factory.mktemp("sound"), "mean")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "folder"))


def complaint(folder: Path, **options: Any) -> str:
    with pytest.raises(PoprtError) as caught:
        pack(folder, None, PackOptions(progress=False, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, **fields: Any) -> None:
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **fields})


def test_no_folder(tmp_path: Path) -> None:
    assert "is no folder: give one that transformers" in complaint(tmp_path / "none")


def test_no_graph(folder: Path) -> None:
    (folder / "onnx" / "model.onnx").rename(folder / "onnx" / "model_O4.onnx")
    text = complaint(folder)
    assert "has neither model.onnx nor onnx/model.onnx (it has onnx/model_O4.onnx" in text
    assert f"optimum-cli export onnx --model {folder}" in text


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json: write one with transformers, AutoTokenizer" in complaint(folder)


def test_a_tokenizer_that_is_none(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "tokenizer.json' cannot be read as a tokenizer" in complaint(folder)


def test_a_pooling_that_cannot_be_told(folder: Path) -> None:
    (folder / "modules.json").unlink()
    text = complaint(folder)
    assert "does not say how the vectors of tokens become one" in text
    assert "--pooling says it, one of cls, max, mean" in text


@pytest.mark.parametrize("fields", [{}, {"pooling_mode": "median"}])
def test_a_pooling_module_that_says_nothing_known(folder: Path, fields: dict[str, str]) -> None:
    write_json(folder / "1_Pooling" / "config.json", fields)
    assert "1_Pooling/config.json': pooling is " in complaint(folder)


def test_a_pooling_without_the_prompts_tokens(folder: Path) -> None:
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    assert "include_prompt is false" in complaint(folder)


def test_a_module_that_is_not_known(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", [*modules, {"path": "2_LSTM", "type": "sentence_transformers.models.LSTM"}])
    assert "modules.json': module 'LSTM' ('2_LSTM') cannot be added" in complaint(folder)


def test_ids_beyond_the_vocabulary_of_the_config(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=100)
    assert "has the id " in complaint(folder)
    assert "and the model's table has 100 rows" in complaint(folder)


def test_ids_beyond_the_graphs_table(folder: Path) -> None:
    (folder / "config.json").write_text('{"max_position_embeddings": 64}', encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"new{number}" for number in range(900)])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert "'new899' has the id 10" in complaint(folder)
    assert "and the model's table has 1000 rows" in complaint(folder)


def test_a_graph_with_an_input_that_texts_do_not_give(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(str(path))
    model.graph.input.append(helper.make_tensor_value_info("task_id", onnx.TensorProto.INT64, []))
    onnx.save(model, str(path))
    assert "the graph has the input 'task_id'; texts give input_ids" in complaint(folder)


def test_a_config_whose_task_the_graph_does_not_answer(folder: Path) -> None:
    text = complaint(folder, task="sequence-classification")
    assert "the graph has no output of rank 2 with a score for each label; it has last_hidden_state (rank 3)" in text
    assert "lacks start_logits or end_logits" in complaint(folder, task="question-answering")


def test_labels_that_do_not_fit_the_logits(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path, "sequence", "BertForSequenceClassification", labels=3)
    assert "--pooling: the model is for sequence-classification" in complaint(folder, pooling="mean")
    assert "reranking needs one logit, 'logits' has 3" in complaint(folder, task="reranking")
    edit(folder / "config.json", id2label={"0": "no", "1": "yes"})
    assert "config.json names 2 labels, 'logits' has 3 logits" in complaint(folder)


def test_more_tokens_than_the_model_has_positions_for(folder: Path) -> None:
    assert "max_length 65: the model has positions for 64 tokens" in complaint(folder, max_length=65)
    assert "max_length 2: the tokenizer frames a text with 2 tokens" in complaint(folder, max_length=2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "fp8"}, "precision is 'fp8', expected one of fp32"),
        ({"pooling": "median"}, "pooling is 'median', expected one of cls"),
        ({"task": "poetry"}, "task is 'poetry', expected one of embedding"),
        ({"max_length": 0}, "max_length is 0, expected a whole number of 1 or more"),
    ],
)
def test_an_option_that_is_none(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PoprtError, match=text):
        PackOptions(**options)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "modules.json"])
def test_a_file_that_is_no_json(folder: Path, name: str) -> None:
    (folder / name).write_text("{", encoding="utf-8")
    assert f"{name}' is no JSON" in complaint(folder)


def test_a_limit_that_is_no_number(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", model_max_length="long")
    assert "tokenizer_config.json': model_max_length is 'long', expected a whole number" in complaint(folder)


def test_a_folder_to_write_to_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PoprtError, match="there is no folder"):
        pack(folder, tmp_path / "none" / "model.popef")


def test_pooling_of_a_graph_that_is_pooled(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path, "mean", "BertModel")
    assert "--pooling: 'embedding' is pooled already" in complaint(folder, pooling="cls")


@pytest.mark.parametrize(
    ("sentence", "tokenizer", "positions", "expected"),
    [(32, 64, 64, 32), (None, 48, 64, 48), (None, 1e30, 64, 64), (96, 64, 64, 64), (None, 1e30, None, 512)],
)
def test_the_longest_text(
    sentence: int | None, tokenizer: float, positions: int | None, expected: int, tmp_path: Path
) -> None:
    from poprt.text.folder.files import ModelFolder
    from poprt.text.folder.limits import max_length

    write_tokenizer(tmp_path, model_max_length=tokenizer)
    write_json(tmp_path / "config.json", {"max_position_embeddings": positions})
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": sentence})
    onnx.save(onnx.ModelProto(), str(tmp_path / "model.onnx"))
    assert max_length(ModelFolder(tmp_path), onnx.ModelProto(), None) == expected


def test_roberta_counts_positions_behind_its_padding(tmp_path: Path) -> None:
    from poprt.text.folder.files import ModelFolder
    from poprt.text.folder.limits import max_length

    write_tokenizer(tmp_path, model_max_length=1e30)
    write_json(tmp_path / "config.json", {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 514})
    onnx.save(onnx.ModelProto(), str(tmp_path / "model.onnx"))
    assert max_length(ModelFolder(tmp_path), onnx.ModelProto(), None) == 512


def test_what_the_caller_says_comes_before_the_folder(folder: Path) -> None:
    packed = pack(folder, None, PackOptions(max_length=16, precision="fp16", pooling="cls", progress=False))
    assert (packed.facts.max_length, packed.facts.pooling, packed.facts.dimension) == (16, "cls", HIDDEN)
    assert packed.executable.outputs[0].dtype == "float16"


def test_capitals_stay_where_the_config_says_so(folder: Path) -> None:
    from poprt.text.folder.files import ModelFolder
    from poprt.text.folder.tokenizer import read_tokenizer

    assert read_tokenizer(ModelFolder(folder)).encode("The").tokens[1] == "the"
    edit(folder / "tokenizer_config.json", do_lower_case=False)
    assert read_tokenizer(ModelFolder(folder)).encode("The").tokens[1:3] != ["the"]


def test_a_pooling_of_a_newer_form(folder: Path) -> None:
    from poprt.text.folder.files import ModelFolder
    from poprt.text.folder.modules import read_head

    write_pooling(folder, "mean")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean_sqrt_len_tokens+cls"})
    head = read_head(ModelFolder(folder))
    assert head is not None
    assert head.poolings == ("mean_sqrt_len", "cls")
