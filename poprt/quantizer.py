"""FP8: names that scripts import at their top, whatever precision they ask for. A call of them is refused."""

from __future__ import annotations

from typing import Any, NoReturn

from poprt.errors import PoprtError
from poprt.option_kinds import NO_FP8

__all__ = ["layer_precision_compare", "quantize"]


def quantize(*_: Any, **__: Any) -> NoReturn:
    """Refused.

    Raises:
        PoprtError: always; the message says what there is instead.
    """
    raise PoprtError(
        f"quantize: {NO_FP8}; Converter(precision='int8') quantises and measures on sample data itself, and 'bf16' "
        "halves the weights"
    )


def layer_precision_compare(*_: Any, **__: Any) -> NoReturn:
    """Refused.

    Raises:
        PoprtError: always; the message says what there is instead.
    """
    raise PoprtError(
        f"layer_precision_compare: {NO_FP8}; Converter(check=True) compares the outputs of both models, and those of "
        "inner tensors that checkpoints names"
    )
