"""Float weights to bfloat16."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.building import add_node
from passes.cleanup.rewiring import replace_uses
from passes.graph_io import header
from passes.precision.names import tensor_names, unique_name
from passes.registry import register

#: Where a model says what it may be computed in, by a numpy name.
COMPUTE_KEY = "poprt.compute"
#: Smaller constants are no weights, or too few to matter.
LEAST_ELEMENTS = 1024
WEIGHTS = "weights in bfloat16"


@register("float_to_bfloat16")
class FloatToBfloat16(GraphPass):
    """Store the matrices and tables in bfloat16, which halves the file, and let the engine compute in it.

    Each is followed by a Cast to float32, so that the graph runs in any ONNX runtime, which computes in float32 then:

        w float32 [K, N] -> MatMul         w bfloat16 [K, N] -> Cast (float32) -> MatMul

    The model's metadata say that products may be computed in bfloat16. An executable of it is, where CPU and engine
    can: 8 bits of a product's factors count, and its sums are of float32. Inputs, outputs, biases, the weights of norms
    and everything below 1,024 elements or of one axis stay float32.

    Subgraphs and local functions keep their weights, as does a constant with a value beyond bfloat16, or one of whole
    numbers that bfloat16 would round.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Convert the constants of the main graph."""
        result, taken = PassResult(), tensor_names(graph)
        weights = [tensor for tensor in graph.tensors().values() if _is_weight(tensor)]
        casts: list[gs.Node] = []
        for weight in weights:
            with np.errstate(over="ignore"):
                rounded = weight.values.astype(ml_dtypes.bfloat16)
            if np.isfinite(weight.values).all() and not np.isfinite(rounded.astype(np.float32)).all():
                result.refuse(weight.name, "it has a value that bfloat16 does not reach")
                continue
            if _counts(weight.values) and (rounded != weight.values).any():
                result.refuse(weight.name, "its whole numbers may be positions, and bfloat16 has no 257")
                continue
            stored = gs.Constant(unique_name(f"{weight.name}_bfloat16", taken), rounded)
            name = unique_name(f"{weight.name}_float", taken)
            widened = add_node(casts, "Cast", name, [stored], np.float32, to=int(onnx.TensorProto.FLOAT))
            replace_uses(weight, widened)
            result.count(WEIGHTS)
        graph.nodes[:0] = casts
        if result.modified:
            header(graph).metadata[COMPUTE_KEY] = "bfloat16"
        return result


def _counts(values: npt.NDArray[np.float32]) -> bool:
    return bool(np.isfinite(values).all() and (values == np.rint(values)).all())


def _is_weight(tensor: gs.Tensor) -> bool:
    return (
        isinstance(tensor, gs.Constant)
        and tensor.dtype == np.float32
        and len(tensor.shape) > 1
        and math.prod(tensor.shape) >= LEAST_ELEMENTS
        and bool(tensor.outputs)
    )
