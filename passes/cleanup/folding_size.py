"""How large the result of a constant node would be, and how much work it is, found without computing it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.cleanup.rewiring import is_op
from passes.operators import Family, members

#: The most bytes that folding adds to a graph's constants, beyond doubling them.
SPARE_BYTES = 1 << 24
#: The most multiply-adds of one product, which numpy does in a second or so, and of what is a loop in Python.
_MOST_PRODUCTS, _MOST_STEPS = 1 << 33, 1 << 20

_PRODUCTS = members(Family.PRODUCT) | {"MatMulInteger", "QLinearMatMul", "Det"}
#: Operators whose reference implementation loops over elements, or takes many times the memory of its result.
_LOOPS = frozenset(
    [
        *("AffineGrid", "AveragePool", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "DFT", "DeformConv", "GRU"),
        *("GridSample", "LSTM", "LpPool", "MaxPool", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix"),
        *(
            "NonMaxSuppression",
            "QLinearConv",
            "RNN",
            "Resize",
            "RoiAlign",
            "STFT",
            "TfIdfVectorizer",
            "TopK",
            "Upsample",
        ),
    ]
)
#: Operators whose results depend on the values of their inputs and are no larger than them, up to 8 bytes an index.
_BOUNDED_BY_INPUTS = frozenset({"NonZero", "Unique", "Compress"})


def outputs_bytes(node: gs.Node, model: onnx.ModelProto) -> int | str:
    """The bytes of the results of ``node``, or the name of the output whose size is not known in advance.

    Args:
        node: a node of which all inputs are constants.
        model: this node alone, with the values of its small inputs.
    """
    total = 0
    for output in onnx.shape_inference.infer_shapes(model).graph.output:
        kind = output.type.tensor_type
        dims = kind.shape.dim
        is_known = kind.elem_type and kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims)
        if is_known:
            itemsize = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
            total += math.prod(max(dim.dim_value, 0) for dim in dims) * int(itemsize)
        elif is_op(node, *_BOUNDED_BY_INPUTS):
            total += _index_bytes(node)
        else:
            return str(output.name)
    return total


def is_too_much_work(node: gs.Node, nbytes: int) -> bool:
    """Whether computing results of ``nbytes`` bytes takes more than a moment."""
    sizes = [math.prod(tensor.shape) for tensor in node.inputs if not tensor.is_empty()]
    if is_op(node, *_LOOPS):
        return bool(math.prod(max(size, 1) for size in [*sizes, nbytes]) > _MOST_STEPS)
    # of A [m, k] and B [k, n] the multiply-adds m * k * n are the root of the product of all three sizes
    return is_op(node, *_PRODUCTS) and bool(_root(sizes, nbytes) > _MOST_PRODUCTS)


def constant_bytes(tensors: Sequence[gs.Tensor]) -> int:
    """The bytes of those of ``tensors`` that are constants of a type that numpy has."""
    return sum(
        math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
        for tensor in tensors
        if isinstance(tensor, gs.Constant) and not isinstance(tensor.dtype, int)
    )


def _index_bytes(node: gs.Node) -> int:
    first = node.inputs[0]
    return int(math.prod(first.shape)) * max(len(first.shape), 1) * 8


def _root(sizes: Sequence[int], nbytes: int) -> float:
    return math.sqrt(math.prod(max(size, 1) for size in sizes) * max(nbytes, 1))
