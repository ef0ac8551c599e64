"""Models as onnxruntime's quantiser leaves them (QDQ), and with weights alone in int8."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from tests.numerics import Arrays, random_samples

#: Without padding, as people calibrate: a mask of ones.
CALIBRATION_LENGTHS = (9, 24, 31)


def tiny_bert(**config: Any) -> onnx.ModelProto:
    """One layer of the tiny encoder, with a pooled embedding."""
    return build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1, "head": "mean", **config}))


def qdq(
    model: onnx.ModelProto,
    *,
    ops: Sequence[str] | None = None,
    activations: str = "QInt8",
    per_channel: bool = False,
    samples: Sequence[Arrays] | None = None,
) -> onnx.ModelProto:
    """``model`` quantised statically in the QDQ format.

    Args:
        model: with inputs [batch, sequence].
        ops: the operators to quantise; None takes all that onnxruntime quantises.
        activations: their type, "QInt8" or "QUInt8"; weights are int8.
        per_channel: whether weights have a scale for each column.
        samples: to calibrate on, inputs [length] by name.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            chosen = random_samples(CALIBRATION_LENGTHS) if samples is None else samples
            self._left = iter([{name: array[None] for name, array in sample.items()} for sample in chosen])

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "quantised.onnx"
        onnx.save(model, plain)
        quantize_static(
            plain,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(ops) if ops else None,
            activation_type=QuantType[activations],
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
        )
        return onnx.load(quantised)


def weight_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose matrices and tables are int8 with a scale a column, each read through a DequantizeLinear."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    large = [tensor for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.data_type == 1]
    for tensor in large:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        scale = np.maximum(np.abs(values).max(axis=0) / 127, 1e-6).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        graph.node.insert(0, helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=1))
    return copy
