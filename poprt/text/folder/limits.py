"""How many tokens a text may have, and how many a pack holds."""

from __future__ import annotations

import logging
from typing import Any

import onnx

from poprt.errors import PoprtError
from poprt.text.folder.files import ModelFolder
from poprt.text.folder.graph import OFFSET_TYPES, inputs_of

logger = logging.getLogger("poprt")

#: transformers writes a tokenizer without a limit as 1e30.
_NO_LIMIT = 10**6
#: Where nothing says how long a text may be.
DEFAULT_LENGTH = 512
#: Tokens that a pack holds at least, and the most texts in one. The runner aims at fewer (poprt/runtime/budget.py).
PACK_TOKENS, PACK_TEXTS = 4096, 512


def max_length(folder: ModelFolder, model: onnx.ModelProto, asked: int | None) -> int:
    """Most tokens of a text, special ones included.

    What sentence-transformers was told comes first, then the tokenizer's limit; neither exceeds the model's positions.

    Args:
        folder, model: the folder and its graph.
        asked: what the caller says, None for nothing.

    Raises:
        PoprtError: ``asked`` is more than the model has positions for.
    """
    positions = _positions(folder, model)
    if asked is not None:
        if positions and asked > positions:
            raise PoprtError(f"max_length {asked}: the model has positions for {positions} tokens")
        return asked
    sentence = folder.whole(folder.table("sentence_bert_config.json"), "max_seq_length", "sentence_bert_config.json")
    tokenizer = folder.whole(folder.tokenizer_config, "model_max_length", "tokenizer_config.json")
    said = sentence or (tokenizer if tokenizer < _NO_LIMIT else 0)
    limits = [limit for limit in (said, positions) if limit]
    if not limits:
        logger.warning("nothing says how long a text may be: %d tokens are taken; --max_length says it", DEFAULT_LENGTH)
    return min(limits, default=DEFAULT_LENGTH)


def _positions(folder: ModelFolder, model: onnx.ModelProto) -> int:
    """Tokens that the model has positions for, as its config or its fixed inputs say; 0 where neither does."""
    config = folder.config
    fields = ("max_position_embeddings", "n_positions", "max_sequence_length")
    table = next((number for name in fields if (number := folder.whole(config, name, "config.json"))), 0)
    if table and config.get("model_type") in OFFSET_TYPES:
        padding: Any = config.get("pad_token_id", 1)
        table -= 1 + (padding if type(padding) is int else 1)
    fixed = [extents[1] for extents in _input_extents(model) if len(extents) == 2 and extents[1]]
    return min((number for number in (table, *fixed) if number > 0), default=0)


def input_shapes(model: onnx.ModelProto, longest: int) -> dict[str, list[int]]:
    """Rows and columns for each input: the longest text is a row. Extents that the graph fixed stay."""
    rows = -(-PACK_TOKENS // longest)
    shapes = {}
    for value, extents in zip(inputs_of(model), _input_extents(model), strict=True):
        fixed_rows, fixed_columns = extents if len(extents) == 2 else (0, 0)
        shapes[value.name] = [fixed_rows or rows, fixed_columns or longest]
    return shapes


def _input_extents(model: onnx.ModelProto) -> list[list[int]]:
    """The extents of each input, 0 where one is open."""
    return [[max(dim.dim_value, 0) for dim in value.type.tensor_type.shape.dim] for value in inputs_of(model)]
