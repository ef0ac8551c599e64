"""The tokenizers library: loaded when it is needed, and its failures in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from poprt.errors import PoprtError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(data: bytes, source: str) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``, without padding and truncation.

    Args:
        data: the file's contents.
        source: what messages call it.

    Raises:
        PoprtError: the library is not installed, or does not understand the file.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise PoprtError("tokenizers is not installed: pip install 'poprt[text]'") from error
    with panics_are_errors(f"{source} cannot be read as a tokenizer"):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


@contextmanager
def panics_are_errors(what: str, kind: type[PoprtError] = PoprtError) -> Iterator[None]:
    """Raise ``kind`` in place of what the library raises: ``Exception`` itself, and panics beside it.

    A panic of Rust is a BaseException that no caller expects.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, PoprtError):
        raise
    except BaseException as error:
        raise kind(f"{what}: {error}") from error
