"""Pooling that a folder asks for is added to the graph, and gives what sentence-transformers computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.bert import SIZES, BertConfig, build_bert
from poprt.errors import PoprtError
from poprt.text import PackOptions, TextModel, pack
from tests.text_folders import FLAGS, HIDDEN, POSITIONS, bert_folder, embedding_folder, outputs_of, pooled, write_json

TEXTS = ["the old bank", "why is my bread dense", "a", "new york is not berlin, and anna was cancelled twice"]


def embeddings(folder: Path, **options: object) -> np.ndarray:
    packed = pack(folder, None, PackOptions(progress=False, **options))  # type: ignore[arg-type]
    with TextModel(packed.executable) as model:
        return model.encode(TEXTS)


@pytest.mark.parametrize("way", sorted(FLAGS))
def test_each_way_of_pooling_gives_the_vectors_of_the_text_alone_and_is_proved_to_hide_padding(
    way: str, tmp_path: Path
) -> None:
    folder = embedding_folder(tmp_path, way)
    executable = pack(folder, None, PackOptions(progress=False)).executable
    assert executable.packing is not None
    assert (executable.packing.neighbours, executable.packing.isolation) == ("any", "")
    expected = [pooled(outputs_of(folder, text)["last_hidden_state"], way) for text in TEXTS]
    with TextModel(executable) as model:
        np.testing.assert_allclose(model.encode(TEXTS), expected, atol=2e-5)


def test_several_ways_are_joined_in_the_order_of_sentence_transformers(tmp_path: Path) -> None:
    folder = embedding_folder(tmp_path, "mean", "cls")
    hidden = [outputs_of(folder, text)["last_hidden_state"] for text in TEXTS]
    expected = [np.concatenate([pooled(item, "cls"), pooled(item, "mean")]) for item in hidden]
    np.testing.assert_allclose(embeddings(folder), expected, atol=2e-5)


def test_embeddings_are_normalised_where_the_folder_asks_for_it(tmp_path: Path) -> None:
    folder = embedding_folder(tmp_path, "mean", normalise=True)
    expected = np.stack([pooled(outputs_of(folder, text)["last_hidden_state"], "mean") for text in TEXTS])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings(folder), expected, atol=2e-5)


def test_the_callers_pooling_takes_the_place_of_the_folders(tmp_path: Path) -> None:
    folder = embedding_folder(tmp_path, "mean")
    expected = [pooled(outputs_of(folder, text)["last_hidden_state"], "cls") for text in TEXTS]
    np.testing.assert_allclose(embeddings(folder, pooling="cls"), expected, atol=2e-5)


def test_a_graph_that_pools_and_normalises_is_left_as_it_is(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path, "mean", "BertModel")
    packed = pack(folder, None, PackOptions(progress=False))
    assert packed.facts.outputs == ("embedding",)
    with TextModel(packed.executable) as model:
        expected = [outputs_of(folder, text)["embedding"] for text in TEXTS]
        np.testing.assert_allclose(model.encode(TEXTS), expected, atol=2e-5)


def test_a_normalisation_is_seen_and_not_added_again() -> None:
    from poprt.text.folder.graph import outputs_of as graph_outputs
    from poprt.text.folder.head import normalise

    model = build_bert(BertConfig(**SIZES["tiny"], head="mean"))
    before = len(model.graph.node)
    assert len(normalise(model, graph_outputs(model)[0]).graph.node) == before


def test_a_mean_over_the_root_of_the_length_is_no_normalisation() -> None:
    from poprt.text.folder.graph import outputs_of as graph_outputs
    from poprt.text.folder.head import normalise

    value, mask, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("input_ids", "m", "y")
    )
    nodes = [
        helper.make_node("ReduceSum", ["m"], ["n"], keepdims=1),
        helper.make_node("Sqrt", ["n"], ["r"]),
        helper.make_node("Div", ["input_ids", "r"], ["y"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [value, mask], [result]))
    assert len(normalise(model, graph_outputs(model)[0]).graph.node) > len(nodes)


@pytest.mark.parametrize(("activation", "function"), [("Identity", lambda x: x), ("ReLU", lambda x: np.maximum(x, 0))])
def test_a_dense_layer_follows_the_pooling(activation: str, function: object, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = embedding_folder(tmp_path, "mean")
    add_dense(folder, f"torch.nn.modules.activation.{activation}")
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((8, HIDDEN)).astype(np.float32), np.arange(8, dtype=np.float32)
    safetensors.save_file({"linear.weight": weight, "linear.bias": bias}, str(folder / "2_Dense" / "model.safetensors"))
    hidden = np.stack([pooled(outputs_of(folder, text)["last_hidden_state"], "mean") for text in TEXTS])
    np.testing.assert_allclose(embeddings(folder), function(hidden @ weight.T + bias), atol=1e-4)  # type: ignore[operator]


def add_dense(folder: Path, activation: str) -> None:
    import json

    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    write_json(folder / "modules.json", modules)
    write_json(folder / "2_Dense" / "config.json", {"activation_function": activation})


@pytest.mark.parametrize(
    ("activation", "complaint"),
    [
        ("torch.nn.modules.activation.Softsign", "2_Dense/config.json': activation_function is .*Softsign"),
        ("torch.nn.modules.activation.Tanh", "has no model.safetensors"),
    ],
)
def test_a_dense_layer_that_cannot_be_read_is_named(activation: str, complaint: str, tmp_path: Path) -> None:
    folder = embedding_folder(tmp_path, "mean")
    add_dense(folder, activation)
    with pytest.raises(PoprtError, match=complaint):
        pack(folder)


def test_an_old_graph_without_a_mask_gets_one_for_its_pooling(tmp_path: Path) -> None:
    folder = embedding_folder(tmp_path, "mean")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h"]),
        helper.make_node("MatMul", ["h", "product"], ["p"]),
        helper.make_node("Tanh", ["p"], ["last_hidden_state"]),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    result = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", 4])
    rng = np.random.default_rng(0)
    table, product = (rng.standard_normal(shape).astype(np.float32) for shape in ((1000, 4), (4, 4)))
    weights = [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(product, "product")]
    graph = helper.make_graph(nodes, "g", [ids], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.save(model, str(folder / "onnx" / "model.onnx"))
    packed = pack(folder, None, PackOptions(progress=False))
    with TextModel(packed.executable) as text_model:
        ids_of = text_model.tokenize(TEXTS)
        expected = [np.tanh(table[item.ids] @ product).mean(axis=0) for item in ids_of]
        np.testing.assert_allclose(text_model.encode(TEXTS), expected, atol=1e-6)
    assert packed.facts.max_length == POSITIONS
