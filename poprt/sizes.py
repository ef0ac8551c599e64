"""How large a model is, found without serialising it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import onnx

from passes.node_protos import subgraphs, walk_nodes

#: Above this many bytes of weights a model does not travel in one protobuf message, which ends at 2 GiB.
LARGEST_MESSAGE = 1_800_000_000


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers and constants, those of subgraphs and local functions too: nearly all of a model."""
    nodes = chain(model.graph.node, *(function.node for function in model.functions))
    return sum(map(_tensor_bytes, chain(model.graph.initializer, *map(_weights_of, walk_nodes(nodes)))))


def _weights_of(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """What a constant holds, and the initializers of the graphs in a node, without those of the nodes in them."""
    if node.op_type == "Constant":
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
    for graph in subgraphs(node):
        yield from graph.initializer


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * itemsize)
