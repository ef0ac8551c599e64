"""Activations that are quantised with one scale for the whole tensor: every sample of a run has a say in it."""

from __future__ import annotations

import onnx

from passes.node_protos import walk_nodes
from passes.operators import CONTRIB
from passes.packed_model import PackedModel
from poprt_format.packing import NONE

#: Operators that find one scale for all of their input, by domain.
SHARING_OPS = frozenset(
    [("", "DynamicQuantizeLinear"), (CONTRIB, "DynamicQuantizeMatMul"), (CONTRIB, "DynamicQuantizeLSTM")]
)


def shares_scale(op: str, domain: str | None) -> bool:
    """Whether a node of this operator quantises with one scale for its whole input."""
    return ("" if domain in (None, "ai.onnx") else domain, op) in SHARING_OPS


def shared_scales(model: onnx.ModelProto) -> tuple[str, ...]:
    """The nodes whose scale spans the samples of a run: operator and name of each, in subgraphs and functions too.

    None in a model that takes one sample at a time: where the first extent of every input is 1, or where a packed
    model says that each sample runs by itself.
    """
    if _takes_one_sample(model):
        return ()
    scopes = [model.graph.node, *(function.node for function in model.functions)]
    nodes = (node for scope in scopes for node in walk_nodes(scope))
    return tuple(f"{node.op_type} {_name(node)!r}" for node in nodes if shares_scale(node.op_type, node.domain))


def _name(node: onnx.NodeProto) -> str:
    return node.name or next(filter(None, node.output), "(unnamed)")


def _takes_one_sample(model: onnx.ModelProto) -> bool:
    packed = PackedModel.read(model)
    if packed is not None:
        return packed.neighbours == NONE
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in weights]
    firsts = [dims[0].dim_value for dims in shapes if dims]
    return bool(firsts) and all(extent == 1 for extent in firsts)
