"""onnxruntime's own dynamic int8 quantisation: what a user without poprt would run."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx


def quantise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with int8 weights in its products; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    root.addFilter(_is_no_advice)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            products = ["MatMul"]
            quantize_dynamic(model, path, op_types_to_quantize=products, per_channel=True, weight_type=QuantType.QInt8)
            return onnx.load(path)
    finally:
        root.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    """Drop the advice to optimise the model first: sessions here do that when they load it."""
    return "pre-processing before quantization" not in record.getMessage()
