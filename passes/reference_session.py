"""onnxruntime as passes use it: to learn what a graph, or a part of one, gives as it is written."""

from __future__ import annotations

import onnx
import onnxruntime as ort

#: Severities of the messages that onnxruntime prints by itself: errors, and what ends the process alone.
ERRORS, SILENT = 3, 4


def reference_session(model: onnx.ModelProto | bytes, *, log_severity: int = ERRORS) -> ort.InferenceSession:
    """A session on the CPU with the optimiser off.

    Raises:
        Exception: onnxruntime refuses the model. Its exceptions share no base class of their own.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = log_severity
    source = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
