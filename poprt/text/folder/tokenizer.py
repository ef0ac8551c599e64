"""The tokenizer of a folder, in the one form in which executables keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poprt.errors import PoprtError
from poprt.text.folder.files import ModelFolder
from poprt.text.library import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Fields of ``tokenizer_config.json`` that transformers prefers to what the tokenizer says -> the normaliser's own.
_PREFERRED = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def read_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The tokenizer as transformers would load it, without padding and truncation.

    Raises:
        PoprtError: it cannot be read.
    """
    tokenizer = load_tokenizer(folder.read("tokenizer.json"), repr(str(folder.path / "tokenizer.json")))
    normaliser = tokenizer.normalizer
    if type(normaliser).__name__ == "BertNormalizer":
        for field, own in _PREFERRED.items():
            if field in folder.tokenizer_config:
                setattr(normaliser, own, folder.tokenizer_config[field])
        tokenizer.normalizer = normaliser
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, rows: int, source: str) -> None:
    """Refuse a tokenizer that gives ids which the model's table does not have.

    Args:
        tokenizer: with its added tokens.
        rows: of the table; 0 where that is not known.
        source: what messages call the tokenizer.

    Raises:
        PoprtError: there is such a token; the message names the one of the highest id.
    """
    token, highest = max(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    if rows and highest >= rows:
        raise PoprtError(
            f"{source}: the token {token!r} has the id {highest}, and the model's table has {rows} rows; "
            "take the tokenizer that the model was trained with"
        )
