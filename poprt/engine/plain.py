"""A session over a model as it is: the original to compare with, or a graph that is only to be checked."""

from __future__ import annotations

import os
from collections.abc import Sequence

import onnxruntime as ort

from poprt.engine.cpu import usable_cores
from poprt.engine.providers import CPU_ONLY

#: How severe a message must be for onnxruntime to print it by itself.
ERRORS, NOTHING = 3, 4


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
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.log_severity_level = log_severity
    source = model if isinstance(model, bytes) else os.fspath(model)
    return ort.InferenceSession(source, options, providers=list(providers))
