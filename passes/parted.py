"""A model in two parts: a small one without its large weights, and these as arrays, so that nobody has to copy them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from passes.cleanup.rewiring import onnx_dtype
from passes.graph_io import export_graph
from passes.placeholders import placeholder

#: A weight of at least so many bytes is kept apart. No shape constant is so large.
LARGE_TENSOR_BYTES = 1024

_LOCATION = "weights.bin"
_NUMBERS = "biuf"  # kinds of numpy's own types; those of ml_dtypes have none of these


@dataclass
class PartedModel:
    """A model whose large weights lie beside it.

    Attributes:
        model: the rest; a weight is an initializer of the main graph there that is marked external and holds no data.
        weights: the weights by name. A model may have all of them inside: then there are none here.
    """

    model: onnx.ModelProto
    weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def whole(self) -> onnx.ModelProto:
        """Put the weights into :attr:`model`, and return that. They are copied one by one and dropped here."""
        for tensor in self.model.graph.initializer:
            array = self.weights.pop(tensor.name, None)
            if array is not None:
                tensor.raw_data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
                tensor.ClearField("data_location")
                del tensor.external_data[:]
        return self.model


def export_parted(graph: gs.Graph) -> PartedModel:
    """Export ``graph`` without copying the weights that it holds as arrays. They are shared with it."""
    weights: dict[str, npt.NDArray[Any]] = {}

    def set_apart(tensor: gs.Constant) -> onnx.TensorProto | None:
        if tensor._values.nbytes < LARGE_TENSOR_BYTES or not _is_numeric(tensor):
            return None
        weights[tensor.name] = tensor.values
        return placeholder(tensor.name, onnx_dtype(tensor) or 0, tensor.shape, _LOCATION)

    return PartedModel(export_graph(graph, set_apart), weights)


def _is_numeric(tensor: gs.Constant) -> bool:
    if not isinstance(tensor.dtype, np.dtype) or tensor.export_dtype != tensor.dtype:
        return False
    return tensor.dtype.kind in _NUMBERS or tensor.dtype == ml_dtypes.bfloat16
