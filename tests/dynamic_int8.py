"""Models that are quantised as they run, as onnxruntime's own tools write them."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import quantize_dynamic


def quantised_as_it_runs(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """The model by onnxruntime's ``quantize_dynamic``; by default its products alone, in 7 bits.

    The seven bits keep kernels from overflowing on a CPU without 8-bit dot products.
    """
    root = logging.getLogger()
    level = root.level
    options = {"op_types_to_quantize": ["MatMul", "Attention"], "reduce_range": True} | options
    options["extra_options"] = {"DefaultTensorType": onnx.TensorProto.FLOAT} | options.get("extra_options", {})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        try:
            root.setLevel(logging.ERROR)  # it advises to optimise the model first
            quantize_dynamic(model, path, **options)
        finally:
            root.setLevel(level)
        return onnx.load(path)


def optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as onnxruntime's session optimises it for any machine, with its fused operators."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        options.log_severity_level = 3
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def fused_encoder(model: onnx.ModelProto, heads: int, hidden: int) -> onnx.ModelProto:
    """The model by onnxruntime's optimiser for transformers."""
    pytest.importorskip("torch", reason="onnxruntime's optimiser for transformers needs torch")
    from onnxruntime.transformers import optimizer

    with TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/model.onnx")
        return optimizer.optimize_model(f"{folder}/model.onnx", "bert", num_heads=heads, hidden_size=hidden).model
