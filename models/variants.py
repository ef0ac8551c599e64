"""The real MiniLM as people ship it: fused, in half precision, quantised, of fixed shape.

Each is made of the float32 model by the tools of onnxruntime and onnx that make such files.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from models.minilm import MiniLM, load_minilm
from models.texts import texts

#: The variant whose inputs are fixed, and their shape.
FIXED, FIXED_SHAPE = "fixed shape", (1, 64)
#: Keywords of the Converter that a variant needs.
CONVERTER_OPTIONS: dict[str, dict[str, Any]] = {"dynamic int8": {"requantize": True}}
_HEADS, _HIDDEN, _BLOCK = 12, 384, 32
_CALIBRATED_ON = 2  # texts: the models are for their form, not for their quality


@dataclass(frozen=True)
class Source:
    """What the variants are made of.

    Attributes:
        minilm: the model and its tokenizer.
        file: the model in float32, of the older exporter's dialect.
        folder: where variants go.
    """

    minilm: MiniLM
    file: Path
    folder: Path


def make(name: str, source: Source) -> Path:
    """Write a variant to ``<folder>/<name>.onnx``.

    Raises:
        KeyError: there is no such variant.
    """
    path = source.folder / f"{name}.onnx"
    with _quiet():
        VARIANTS[name](source, path)
    return path


def open_source(folder: Path) -> Source:
    """Load MiniLM and write it to ``folder``.

    Raises:
        MiniLMNotFoundError: the weights are not installed; the message says how to install them.
    """
    minilm = load_minilm()
    file = folder / "source.onnx"
    onnx.save(minilm.model, str(file))
    return Source(minilm, file, folder)


def _float32(source: Source, path: Path) -> None:
    onnx.save(source.minilm.model, str(path))


def _float16(source: Source, path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(_copy(source.minilm.model), keep_io_types=True), str(path))


def _fused(source: Source, path: Path) -> None:
    _fuse(source).save_model_to_file(str(path))


def _fused_float16(source: Source, path: Path) -> None:
    fused = _fuse(source)
    fused.convert_float_to_float16(keep_io_types=True)
    fused.save_model_to_file(str(path))


def _fuse(source: Source) -> Any:
    from onnxruntime.transformers.optimizer import optimize_model

    return optimize_model(str(source.file), "bert", num_heads=_HEADS, hidden_size=_HIDDEN, opt_level=0)


def _saved_session(source: Source, path: Path) -> None:
    """What a session of onnxruntime writes once it has optimised the graph."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(str(source.file), options, providers=["CPUExecutionProvider"])


def _dynamic_int8(source: Source, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source.file, path, weight_type=QuantType.QInt8)


def _qdq_int8(source: Source, path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        source.file,
        path,
        _calibration(source.minilm),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def _calibration(minilm: MiniLM) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    chosen = minilm.tokenize([item.text for item in texts()[:_CALIBRATED_ON]])
    feeds = iter([{name: values[None] for name, values in sample.items()} for sample in chosen])

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def get_next(self) -> Any:
            return next(feeds, None)

    return Reader()


def _weight_only_int8(source: Source, path: Path) -> None:
    """Tables by onnxruntime's tool, as rows that are dequantised once they are looked up; matrices a scale a column."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source.file, path, op_types_to_quantize=["Gather"], weight_type=QuantType.QInt8)
    model = onnx.load(str(path))
    matrices = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    for tensor in [item for item in model.graph.initializer if item.name in matrices]:
        _store_as_int8(model.graph, tensor)
    onnx.save(model, str(path))


def _store_as_int8(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
    """Replace a matrix [H, K] by int8 and a DequantizeLinear with a scale a column."""
    values, name = numpy_helper.to_array(tensor), tensor.name
    scale = np.abs(values).max(axis=0) / np.float32(127)
    tensor.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_int8"))
    points = np.zeros(len(scale), np.int8)
    graph.initializer.extend(
        [numpy_helper.from_array(scale, f"{name}_scale"), numpy_helper.from_array(points, f"{name}_zero")]
    )
    inputs = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
    graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], f"{name}_dequantised", axis=1))


def _four_bits(source: Source, path: Path) -> None:
    """Matrices and tables of 4 bits; the tool needs a newer opset than the source has."""
    _few_bits(load_minilm("new-torch").model, path, bits=4, tables=True)


def _eight_bits(source: Source, path: Path) -> None:
    """Matrices of 8 bits, whose products round what they read to 8 bits too."""
    _few_bits(_copy(source.minilm.model), path, bits=8, accuracy_level=4)


def _few_bits(model: onnx.ModelProto, path: Path, *, bits: int, tables: bool = False, **options: Any) -> None:
    from onnxruntime.quantization import matmul_nbits_quantizer as tool

    axes = {"MatMul": 0, **({"Gather": 1} if tables else {})}
    config = tool.DefaultWeightOnlyQuantConfig(
        block_size=_BLOCK,
        is_symmetric=True,
        bits=bits,
        op_types_to_quantize=tuple(axes),
        quant_axes=tuple(axes.items()),
        **options,
    )
    quantiser = tool.MatMulNBitsQuantizer(model, algo_config=config)
    quantiser.process()
    quantiser.model.save_model_to_file(str(path))


def _external_data(source: Source, path: Path) -> None:
    model = _copy(source.minilm.model)
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data")


def _fixed_shape(source: Source, path: Path) -> None:
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_dim_param_fixed

    model = _copy(source.minilm.model)
    for name, extent in zip(("batch", "sequence"), FIXED_SHAPE, strict=True):
        make_dim_param_fixed(model.graph, name, extent)
    fix_output_shapes(model)
    onnx.save(model, str(path))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools log and warn by the page."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


#: Name -> writes the variant to a file.
VARIANTS: dict[str, Callable[[Source, Path], None]] = {
    "float32": _float32,
    "float16": _float16,
    "fused": _fused,
    "fused float16": _fused_float16,
    "saved session": _saved_session,
    "dynamic int8": _dynamic_int8,
    "QDQ int8": _qdq_int8,
    "weight-only int8": _weight_only_int8,
    "4 bits": _four_bits,
    "8 bits": _eight_bits,
    "external data": _external_data,
    FIXED: _fixed_shape,
}
