"""onnxruntime's own dynamic int8 quantisation: what a user without poprt would run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx


def quantise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with int8 weights in its products; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        quantize_dynamic(model, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
        return onnx.load(path)
