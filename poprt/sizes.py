"""How large a model is, found without serialising it."""

from __future__ import annotations

import math
from itertools import chain

import onnx

from passes.element_sizes import stored_bytes
from passes.node_protos import subgraphs, walk_nodes

#: Above this many bytes of weights a model does not travel in one protobuf message, which ends at 2 GiB.
LARGEST_MESSAGE = 1_800_000_000


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers and constants, those of subgraphs and local functions too: nearly all of a model.

    Sparse ones count as they are stored: their values and their indices.
    """
    nodes = chain(model.graph.node, *(function.node for function in model.functions))
    return _graph_bytes(model.graph) + sum(map(_node_bytes, walk_nodes(nodes)))


def _node_bytes(node: onnx.NodeProto) -> int:
    """What a constant holds, and the initializers of the graphs in a node, without those of the nodes in them."""
    own_bytes = sum(map(_attribute_bytes, node.attribute)) if node.op_type == "Constant" else 0
    return own_bytes + sum(map(_graph_bytes, subgraphs(node)))


def _graph_bytes(graph: onnx.GraphProto) -> int:
    return sum(map(_tensor_bytes, graph.initializer)) + sum(map(_sparse_bytes, graph.sparse_initializer))


def _attribute_bytes(attribute: onnx.AttributeProto) -> int:
    """What a Constant makes of one of its attributes: value, sparse_value, value_floats, value_ints, …"""
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _tensor_bytes(attribute.t)
    if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
        return _sparse_bytes(attribute.sparse_tensor)
    floats = len(attribute.floats) + int(attribute.type == onnx.AttributeProto.FLOAT)
    integers = len(attribute.ints) + int(attribute.type == onnx.AttributeProto.INT)
    return 4 * floats + 8 * integers


def _sparse_bytes(tensor: onnx.SparseTensorProto) -> int:
    return _tensor_bytes(tensor.values) + _tensor_bytes(tensor.indices)


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    return stored_bytes(math.prod(tensor.dims), tensor.data_type)
