"""What the caller of an executable sees: the inputs and outputs that the model declares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from passes.base import GraphPass, PassResult
from passes.errors import RewriteError
from passes.graph_io import value_info
from poprt.compiler.id_limits import id_limits
from poprt.executable import WEIGHT_DTYPES, TensorSpec


class ReadInterface(GraphPass):
    """Notes the inputs and outputs, before the engine's graph comes to differ from them. Changes nothing.

    Attributes:
        inputs, outputs: as the graph declared them when the pass ran; the engine's types are not known yet.
    """

    name = "read_interface"

    def __init__(self) -> None:
        super().__init__()
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()

    def apply(self, graph: gs.Graph) -> PassResult:
        """Read what is declared.

        Raises:
            RewriteError: nothing goes in, or something goes in or out that is no tensor of numbers.
        """
        if not graph.inputs:
            raise RewriteError(
                "the model has no inputs; an executable answers what it is fed, so there is nothing to run"
            )
        limits = id_limits(graph)
        self.inputs = tuple(replace(_spec(tensor), id_limit=limits.get(tensor.name, 0)) for tensor in graph.inputs)
        self.outputs = tuple(_spec(tensor) for tensor in graph.outputs)
        return PassResult()


def _spec(tensor: gs.Tensor) -> TensorSpec:
    return tensor_spec(value_info(tensor))


def tensor_spec(item: onnx.ValueInfoProto) -> TensorSpec:
    """A declared input or output; the engine's type is the declared one until lowering says otherwise.

    Raises:
        RewriteError: it is no tensor of numbers.
    """
    declared = item.type.tensor_type
    if not item.type.HasField("tensor_type") or not declared.elem_type:
        raise RewriteError(f"{item.name!r} is not a tensor of known type; the runtime takes and gives tensors only")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(declared.elem_type)).name
    if dtype == "object":
        raise RewriteError(f"{item.name!r} holds strings; the runtime takes and gives numbers only")
    if dtype not in WEIGHT_DTYPES:
        raise RewriteError(
            f"{item.name!r} is of {dtype}; the runtime takes and gives {', '.join(sorted(WEIGHT_DTYPES))}. Cast it to "
            "one of them in the model"
        )
    shape = tuple(max(dim.dim_value, 0) for dim in declared.shape.dim)
    return TensorSpec(item.name, shape, dtype, dtype, any_rank=not declared.HasField("shape"))
