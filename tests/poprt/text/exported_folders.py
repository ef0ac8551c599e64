"""Tiny models of transformers, saved and exported as people do. Imported only where torch is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.exports import VOCAB, Family
from tests.text_folders import byte_pairs, wordpiece
from tests.torch_export import WithHead, _torch_onnx, quiet

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def bert(head: str, **fields: Any) -> tuple[Any, Any]:
    """A BERT with a WordPiece tokenizer: the model, and the tokenizer of transformers."""
    tokenizer = transformers.BertTokenizerFast(tokenizer_object=wordpiece(), model_max_length=64)
    config = transformers.BertConfig(vocab_size=VOCAB, max_position_embeddings=64, **SIZES, **fields)
    return _seeded(f"Bert{head}", config), tokenizer


def roberta(head: str, **fields: Any) -> tuple[Any, Any]:
    """A RoBERTa with a byte-level tokenizer, and positions that start behind the padding token's."""
    tokenizer = transformers.RobertaTokenizerFast(tokenizer_object=byte_pairs(), model_max_length=64)
    table = {"vocab_size": VOCAB, "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1}
    return _seeded(f"Roberta{head}", transformers.RobertaConfig(**table, **SIZES, **fields)), tokenizer


def _seeded(name: str, config: Any) -> Any:
    """Random weights, larger than usual, so that labels differ from token to token."""
    torch.manual_seed(7)
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def save(folder: Path, model: Any, tokenizer: Any, head: str) -> Path:
    """Save model and tokenizer, with the export in ``model.onnx``; ``head`` is one of ``tests.exports.HEADS``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    row = Family(model.config.model_type, types=model.config.model_type == "bert")
    with quiet():
        _torch_onnx(
            WithHead(model, head).eval(), row, head, folder / "model.onnx", dynamo=False, shape=None, opset=None
        )
    return folder
