"""Compute a float16 model in float32, for an engine without fast float16.

The whole graph changes, with its subgraphs and local functions: every tensor that was float16 is float32. Large weights
stay float16 in the file and are widened when they are loaded, which is exact. The caller's types do not change: the
runner converts at the border.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.placeholders import is_placeholder, retype
from passes.shapes.dtypes import FLOAT as FLOAT_DTYPE
from passes.shapes.dtypes import has_dtype

_HALF, _FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT

#: Integer attributes that hold a tensor type: of Cast, random generators, quantization, windows and attention.
_TYPE_ATTRIBUTES = frozenset(
    {"to", "dtype", "output_dtype", "output_datatype", "precision", "softmax_precision", "stash_type"}
)

#: The constants of GELU by their float16 values. An engine that fuses GELU looks for them to float32 precision.
_GELU_CONSTANTS = {
    float(np.float16(constant)): constant
    for constant in (math.sqrt(2), math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715)
}


class LowerHalf(GraphPass):
    """Makes every float16 tensor float32. A weight outside of the graph is only declared so."""

    name = "lower_half"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Widen tensors and the attributes that name the type, in subgraphs and local functions too."""
        result = PassResult()
        for scope in walk_graphs(graph):
            for tensor in scope.tensors().values():
                result.count("tensors widened", _widen(tensor))
            holders = [scope.attrs] if isinstance(scope, gs.Function) else []
            for attributes in [*holders, *(node.attrs for node in scope.nodes)]:
                result.count("attributes widened", _widen_attributes(attributes))
        return result


def _widen(tensor: gs.Tensor) -> bool:
    if not has_dtype(tensor, np.float16):
        return False
    if is_placeholder(tensor):
        retype(tensor, _FLOAT)
    elif isinstance(tensor, gs.Constant):
        tensor.values = _widened(tensor.values)
    else:
        tensor.dtype = FLOAT_DTYPE
    return True


def _widened(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array`` in float32. A scalar that float16 has rounded from a constant of GELU gets its digits back."""
    wide = array.astype(np.float32)
    if wide.size == 1:
        wide[...] = _GELU_CONSTANTS.get(wide.item(), wide)
    return wide


def _widen_attributes(attributes: dict[str, Any]) -> int:
    """Widen in place the tensors among a node's attributes, and what names their type; how many."""
    changes = 0
    for name, value in attributes.items():
        if isinstance(value, gs.Tensor):
            changes += _widen(value)
        elif name in _TYPE_ATTRIBUTES and isinstance(value, int) and value == _HALF:
            attributes[name] = int(_FLOAT)
            changes += 1
        elif name == "dataType" and value == "FLOAT16":  # of ai.graphcore AttentionMask
            attributes[name] = "FLOAT"
            changes += 1
    return changes
