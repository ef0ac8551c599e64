"""Constants near the end of float32, in OpenVINO's graph."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.placeholders import is_placeholder

_MOST = np.float32(1e30)


class ClampLargeConstants(GraphPass):
    """Brings finite float32 constants to 1e30 at most, in the main graph and what is in it.

    Exporters mask with the least float32, -3.4028e38; -1e30 masks as well. In bfloat16 the former is -inf, and a
    Softmax over nothing else gives NaN. Weights that lie elsewhere stay as they are.
    """

    name = "clamp_large_constants"

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
