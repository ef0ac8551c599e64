"""Constants beyond bfloat16 where a graph may be computed in it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.placeholders import is_placeholder

#: The largest bfloat16: the upper half of a float32's bits.
_MOST = np.uint32(0x7F7F0000).view(np.float32)


class ClampToBfloat16(GraphPass):
    """Brings finite float32 constants into the reach of bfloat16, in the main graph and what is in it.

    Exporters mask with the least float32: ``Where(present, scores, -3.4028e38)``. Rounded to bfloat16 it is -inf, and a
    Softmax over nothing else gives NaN; -3.3895e38 masks as well. Weights that lie elsewhere stay as they are.
    """

    name = "clamp_to_bfloat16"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Clamp them, in place."""
        result = PassResult()
        for scope in walk_graphs(graph):
            for tensor in scope.tensors().values():
                if not isinstance(tensor, gs.Constant) or is_placeholder(tensor) or tensor.dtype != np.float32:
                    continue
                values = tensor.values
                beyond = np.isfinite(values) & (np.abs(values) > _MOST)
                if beyond.any():
                    tensor.values = np.where(beyond, np.copysign(_MOST, values), values).astype(np.float32)
                    result.count("constants clamped")
        return result
