"""From logits to scores and labels, as transformers' text-classification pipeline gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.errors import InputError

Floats = npt.NDArray[np.float32]


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    with np.errstate(over="ignore"):
        scores: Floats = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
    return scores


def softmax(logits: Floats) -> Floats:
    """Scores along the last axis that add up to 1."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Floats = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return scores


def _same(logits: Floats) -> Floats:
    return logits


_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {"none": _same, "sigmoid": sigmoid, "softmax": softmax}


def activate(logits: Floats, name: str) -> Floats:
    """Scores [n, labels] of logits, by one of ``facts.ACTIVATIONS``.

    Raises:
        InputError: there is no such function.
    """
    if name not in _FUNCTIONS:
        raise InputError(f"function_to_apply is {name!r}, expected one of {', '.join(_FUNCTIONS)}")
    return _FUNCTIONS[name](logits)


def labelled(scores: Floats, labels: Sequence[str], top_k: int | None) -> list[dict[str, Any]]:
    """Labels with their scores, the highest first: ``[{"label": ..., "score": ...}, ...]``.

    Args:
        scores: [labels], of one text.
        labels: their names.
        top_k: how many; None gives all.
    """
    order = sorted(range(len(labels)), key=lambda index: -scores[index])[:top_k]
    return [{"label": labels[index], "score": float(scores[index])} for index in order]


def check_top_k(top_k: int | None) -> int | None:
    """``top_k`` itself; raise InputError unless it is None or 1 or more."""
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise InputError(f"top_k is {top_k!r}, expected a whole number of 1 or more, or None for all")
    return top_k
