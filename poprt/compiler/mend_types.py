"""Correct what a model says wrongly of its types and shapes, which the engine would refuse."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.cleanup.rewiring import onnx_dtype
from passes.shapes.dtypes import as_dtype
from poprt.compiler.inference import engine_types, extents_of, inferred_types, unpacked_types

logger = logging.getLogger("poprt")


class MendTypes(GraphPass):
    """Infers types and shapes of the main graph again, and corrects what is declared otherwise.

    A warning names each output that is corrected. Of an inner tensor only the type is. An output without a type gets
    the one that is inferred.
    """

    name = "mend_types"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Correct the declarations; see the class."""
        result = PassResult()
        inferred = {**unpacked_types(graph), **inferred_types(graph)}
        if any(not _is_known(tensor, inferred) for tensor in graph.outputs):
            inferred = {**engine_types(graph), **inferred}
        kept = {id(tensor) for tensor in [*graph.inputs, *graph.outputs]}
        for tensor in graph.outputs:
            if _is_tensor(tensor) and tensor.name in inferred:
                _mend_output(tensor, inferred[tensor.name], result)
        for name, tensor in graph.tensors().items():
            kind = inferred[name].elem_type if name in inferred else 0
            if id(tensor) not in kept and kind and _is_tensor(tensor) and onnx_dtype(tensor) not in (None, kind):
                tensor.dtype = as_dtype(kind)
                result.count("inner types corrected")
        return result


def _is_known(tensor: gs.Tensor, inferred: Mapping[str, onnx.TypeProto.Tensor]) -> bool:
    return onnx_dtype(tensor) is not None or tensor.name in inferred


def _is_tensor(tensor: gs.Tensor) -> bool:
    """Whether its type can be declared, and is that of a tensor."""
    return isinstance(tensor, gs.Variable) and tensor.type == "tensor_type"


def _mend_output(tensor: gs.Variable, computed: onnx.TypeProto.Tensor, result: PassResult) -> None:
    declared = onnx_dtype(tensor) or 0
    if computed.elem_type and not declared:  # tools that look at every tensor add outputs by their names
        tensor.dtype = as_dtype(computed.elem_type)
        result.count("output types inferred")
    elif computed.elem_type and computed.elem_type != declared:
        logger.warning(
            "output %r is declared %s but computed as %s; the executable gives the latter",
            tensor.name,
            onnx.TensorProto.DataType.Name(declared),
            onnx.TensorProto.DataType.Name(computed.elem_type),
        )
        tensor.dtype = as_dtype(computed.elem_type)
        result.count("output types corrected")
    if tensor.shape is None and computed.HasField("shape"):
        tensor.shape = list(extents_of(computed))
        result.count("output shapes inferred")
    elif tensor.shape is not None and computed.HasField("shape") and _contradicts(tensor.shape, extents_of(computed)):
        logger.warning("output %r has another shape than declared; the declaration is corrected", tensor.name)
        tensor.shape = list(extents_of(computed))
        result.count("output shapes corrected")


def _contradicts(declared: Sequence[int | str | None], computed: Sequence[int | str | None]) -> bool:
    """Whether the ranks differ, or two extents that are both numbers do; 0 stands for an open one."""
    pairs = zip(declared, computed, strict=False)
    return len(declared) != len(computed) or any(
        isinstance(a, int) and isinstance(b, int) and a and b and a != b for a, b in pairs
    )
