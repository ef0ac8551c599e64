"""Tiny folders as transformers and sentence-transformers save them, made in code: no torch, no download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from models.bert import SIZES, BertConfig, build_bert

HIDDEN = SIZES["tiny"]["hidden"]
VOCAB = SIZES["tiny"]["vocab"]
POSITIONS = 64
_TEXT = """
the a of and to in is was on for with as by at from it that this are were be has had not but or an which their
new york berlin paris anna james bought sold bread dense train cancelled slow query sleep faster why how my
who company river city bank old red house light water stone play un ##able ##ing ##ed ##s ##er ##ly ##est
##ment ##ful
"""
WORDS = tuple(_TEXT.split())
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
#: The flags of a pooling module by the name of the way.
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def wordpiece(lowercase: bool = True) -> Tokenizer:
    """A WordPiece tokenizer that spells any English word, framed as BERT frames texts."""
    pieces = [*SPECIAL, *WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    frame = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def byte_pairs() -> Tokenizer:
    """A byte-level BPE tokenizer, trained on :data:`WORDS`, framed as RoBERTa frames texts."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer: Tokenizer | None = None, **config: Any) -> None:
    """``tokenizer.json`` with what transformers writes beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or wordpiece()).save(str(folder / "tokenizer.json"))
    tokens = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    fields = {"tokenizer_class": "BertTokenizerFast", "model_max_length": POSITIONS, "do_lower_case": True, **tokens}
    write_json(folder / "tokenizer_config.json", {**fields, **config})
    write_json(folder / "special_tokens_map.json", tokens)


def write_pooling(folder: Path, *ways: str, normalise: bool = False) -> None:
    """``modules.json`` and what it names, as sentence-transformers writes them."""
    names = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (name, path) in enumerate(zip(names, paths, strict=False))
    ]
    write_json(folder / "modules.json", modules)
    flags = {flag: name in ways for name, flag in FLAGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **flags})


def bert_folder(folder: Path, head: str, architecture: str, *, labels: int = 3, **config: Any) -> Path:
    """A folder of a BERT with random weights and one of the heads of :mod:`models.bert`."""
    write_tokenizer(folder)
    model = build_bert(BertConfig(**SIZES["tiny"], max_positions=POSITIONS, head=head, labels=labels))
    (folder / "onnx").mkdir(exist_ok=True)
    onnx.save(model, str(folder / "onnx" / "model.onnx"))
    fields = {
        "architectures": [architecture],
        "model_type": "bert",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "max_position_embeddings": POSITIONS,
    }
    write_json(folder / "config.json", {**fields, **config})
    return folder


def embedding_folder(folder: Path, *ways: str, normalise: bool = False, **config: Any) -> Path:
    """A folder of sentence-transformers whose graph gives token vectors."""
    bert_folder(folder, "hidden", "BertModel", **config)
    write_pooling(folder, *ways, normalise=normalise)
    return folder


def outputs_of(folder: Path, text: Any, *, truncated: int = POSITIONS) -> dict[str, np.ndarray]:
    """What the folder's own graph gives for one text or pair, in onnxruntime with its optimiser off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(folder / "onnx" / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(truncated)
    encoding = tokenizer.encode(*text) if isinstance(text, tuple) else tokenizer.encode(text)
    arrays = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
    names = [item.name for item in session.get_outputs()]
    results = session.run(names, {name: np.array([values], np.int64) for name, values in arrays.items()})
    return dict(zip(names, (result[0] for result in results), strict=True))


def pooled(hidden: np.ndarray, way: str) -> np.ndarray:
    """One vector [hidden] of the vectors [length, hidden] of an unpadded text."""
    places = np.arange(1, len(hidden) + 1)[:, None]
    ways: Mapping[str, Any] = {
        "cls": lambda: hidden[0],
        "max": lambda: hidden.max(axis=0),
        "mean": lambda: hidden.mean(axis=0),
        "mean_sqrt_len": lambda: hidden.sum(axis=0) / np.sqrt(len(hidden)),
        "weightedmean": lambda: (hidden * places).sum(axis=0) / places.sum(),
        "lasttoken": lambda: hidden[-1],
    }
    result: np.ndarray = ways[way]()
    return result
