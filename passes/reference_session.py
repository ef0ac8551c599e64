"""onnxruntime as passes use it: to learn what a graph, or a part of one, gives as it is written."""

from __future__ import annotations

import onnx
import onnxruntime as ort


def reference_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """A session on the CPU with the optimiser off.

    Raises:
        Exception: onnxruntime refuses the model. Its exceptions share no base class of their own.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
