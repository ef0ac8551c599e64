"""A session over a model as it is: the original to compare with, or a graph that is only to be checked."""

from __future__ import annotations

import os
from collections.abc import Sequence

import onnxruntime as ort

from poprt.engine.options import ERRORS, NOTHING, session_options
from poprt.engine.providers import CPU_ONLY

__all__ = ["ERRORS", "NOTHING", "plain_session"]


def plain_session(
    model: bytes | str | os.PathLike[str],
    *,
    optimise: bool = True,
    threads: int | None = None,
    providers: Sequence[str] = CPU_ONLY,
    log_severity: int = ERRORS,
) -> ort.InferenceSession:
    """Open onnxruntime on a model.

    Args:
        model: its bytes or its path.
        optimise: with onnxruntime's own rewrites. Without, the graph runs as it is written.
        threads: for one operator; None takes the usable cores.
        providers: onnxruntime's execution providers, best first.
        log_severity: the least severe messages that onnxruntime prints by itself.

    Raises:
        Exception: onnxruntime refuses the model. Its exceptions share no base class of their own.
    """
    options = session_options(threads, log_severity)
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else os.fspath(model)
    return ort.InferenceSession(source, options, providers=list(providers))
