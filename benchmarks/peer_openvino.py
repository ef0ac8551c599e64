"""OpenVINO on the CPU, on the same ONNX models."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.contenders import Array
from poprt.engine.cpu import usable_cores
from poprt.executable import Executable

HOW_TO = "pip install openvino"


class OpenVINO:
    """An OpenVINO model that computes in one precision (where the model itself leaves it open), on all usable cores.

    Args:
        model: the ONNX model, serialised.
        streams: batches that run at the same time; the cores are shared among them.
        precision: "f32" or "bf16".
        group: how many neighbouring values share a scale where int8 weights meet floats; None leaves it to OpenVINO.

    Raises:
        ImportError: OpenVINO is not installed.
        RuntimeError: OpenVINO does not take the model, or the CPU does not compute in bf16.
    """

    def __init__(self, model: bytes, streams: int = 1, precision: str = "f32", group: int | None = None) -> None:
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError("this CPU does not compute in bf16")  # OpenVINO would, slowly, in float32
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": usable_cores(),
            "NUM_STREAMS": streams,
        }
        if group is not None:
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = group
        # The outputs keep the ONNX model's order; their names may be lost to the Identity before them.
        self._names = [value.name for value in onnx.load_from_string(model).graph.output]
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
        self._inputs = {name for port in compiled.inputs for name in port.names}
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())
        self.token_outputs = frozenset(
            name
            for name, port in zip(self._names, compiled.outputs, strict=True)
            if port.partial_shape.rank.get_length() > 1 and port.partial_shape[1].is_dynamic
        )

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run one batch. The outputs are copied: the next run overwrites OpenVINO's own."""
        request = self._idle.get()
        try:
            request.infer({name: array for name, array in feeds.items() if name in self._inputs})
            tensors = request.output_tensors
            return {name: np.array(tensor.data) for name, tensor in zip(self._names, tensors, strict=True)}
        finally:
            self._idle.put(request)


def engine_model(executable: Executable) -> bytes:
    """The executable's graph with its weights inside: standard operators alone, as other engines read it."""
    model = onnx.load_from_string(executable.graph)
    types = {spec.name: spec.engine_dtype for spec in executable.manifest.weights}
    for tensor in model.graph.initializer:
        if tensor.name in types:
            array = np.asarray(executable.weight(tensor.name), types[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    serialised: bytes = model.SerializeToString()
    return serialised
