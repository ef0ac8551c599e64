"""What to give instead where the check finds wrong numbers: only what was tried and passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import onnx

from passes.errors import RewriteError
from poprt.converter import Converter
from poprt.errors import PoprtError

logger = logging.getLogger("poprt")


def advise(options: dict[str, Any], original: onnx.ModelProto) -> str:
    """The first other way in which the model passes its check, as the end of a sentence; "" where none does.

    Args:
        options: of the converter whose model differs.
        original: is converted once for each way.
    """
    for words, changes in _ways(options):
        if _passes({**options, **changes}, original):
            return f"; with {words} it passes"
    return ""


def _ways(options: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    precision = options["precision"]
    if precision == "fp16" and not options["enable_avoid_overflow_patterns"]:
        yield "--enable_avoid_overflow_patterns", {"enable_avoid_overflow_patterns": True}
    if precision in ("fp16", "int8"):
        yield "--precision fp32", {"precision": "fp32"}


def _passes(options: dict[str, Any], original: onnx.ModelProto) -> bool:
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what the trial warns of would be taken for the model's own
    try:
        trial = Converter(**{**options, "disable_progress_bar": True})
        trial.convert(original)
    except (PoprtError, RewriteError):
        return False
    finally:
        logger.setLevel(level)
    return trial.verification is not None and trial.verification.passed
