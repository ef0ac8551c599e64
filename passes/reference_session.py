"""onnxruntime as passes use it: to learn what a graph, or a part of one, gives as it is written."""

from __future__ import annotations

import logging
from contextvars import ContextVar

import onnx
import onnxruntime as ort

#: Paths of the libraries of custom operators that are registered with each session.
CUSTOM_LIBRARIES: ContextVar[tuple[str, ...]] = ContextVar("custom_libraries", default=())

_WARNINGS, SILENT = 2, 4  # severities of the messages that onnxruntime prints by itself

logger = logging.getLogger("poprt")


def reference_session(model: onnx.ModelProto | bytes, *, threads: int = 0) -> ort.InferenceSession:
    """A session on the CPU with the optimiser off. It prints nothing by itself, warnings at the level DEBUG.

    Args:
        model: what to open.
        threads: for one operator; 0 is one a core. Those of a session wait busily for a while after each run, so a
            session for a few numbers is to have 1.

    Raises:
        Exception: onnxruntime refuses the model. Its exceptions share no base class of their own.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = _WARNINGS if logger.isEnabledFor(logging.DEBUG) else SILENT
    for path in CUSTOM_LIBRARIES.get():
        options.register_custom_ops_library(path)
    source = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
