"""What scripts ask of an ONNX graph: constants, types, shapes, an order of the nodes."""

from __future__ import annotations

import heapq
from typing import cast

import numpy as np
import onnx
from onnx import numpy_helper

from passes.errors import RewriteError
from passes.node_protos import walk_graphs
from passes.pattern.matcher import Connections

__all__ = ["clean_info", "get_constant", "get_dtype", "get_shape", "topological_sort"]


def clean_info(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the ``value_info`` of the model's graph and of every graph inside it, in place, and return the model.

    Needed after a change that makes recorded shapes wrong; ``infer_shapes`` then finds the new ones. Inputs and outputs
    keep what they declare.
    """
    for graph in walk_graphs(model.graph):
        del graph.value_info[:]
    return model


def get_dtype(graph: onnx.GraphProto, name: str) -> int | None:
    """The ONNX element type of tensor ``name`` (``TensorProto.FLOAT``), or None where the graph does not say it."""
    value = _value_info(graph, name)
    if value is not None and value.type.tensor_type.elem_type:
        return int(value.type.tensor_type.elem_type)
    constant = get_constant(graph, name)
    return constant.data_type if constant is not None else None


def get_shape(graph: onnx.GraphProto, name: str) -> list[int] | None:
    """The extents of tensor ``name``, 0 where one is open, or None where the graph does not say its rank."""
    value = _value_info(graph, name)
    if value is not None and value.type.tensor_type.HasField("shape"):
        return [max(int(dim.dim_value), 0) for dim in value.type.tensor_type.shape.dim]
    constant = get_constant(graph, name)
    return list(constant.dims) if constant is not None else None


def get_constant(graph: onnx.GraphProto, name: str) -> onnx.TensorProto | None:
    """The tensor of initializer or Constant ``name``, or None where it is neither.

    It is the graph's own: changing it changes the model. A Constant that holds plain numbers is first given the same
    numbers as a tensor.
    """
    for tensor in graph.initializer:
        if tensor.name == name:
            return cast(onnx.TensorProto, tensor)
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output:
            return _constant_tensor(node)
    return None


def _constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    attribute = node.attribute[0]
    if attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
        dtype = "int64" if "int" in attribute.name else "float32"
        numbers = np.asarray(onnx.helper.get_attribute_value(attribute), dtype)
        attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(numbers)))
    return cast(onnx.TensorProto, attribute.t) if attribute.name == "value" else None


def topological_sort(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The graph's nodes, each after those that feed it; the order changes only where it has to.

    Raises:
        RewriteError: the nodes feed each other in a circle; the message names one of them.
    """
    connections, nodes = Connections(graph), list(graph.node)
    missing = [sum(isinstance(end, int) for end in ends) for ends in connections.producers]
    ready = [position for position, count in enumerate(missing) if count == 0]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for consumer in connections.consumers[order[-1]]:
            if isinstance(consumer, int):
                missing[consumer] -= 1
                if missing[consumer] == 0:
                    heapq.heappush(ready, consumer)
    if len(order) < len(nodes):
        stuck = nodes[next(position for position, count in enumerate(missing) if count)]
        raise RewriteError(f"graph {graph.name!r} has a circle of nodes; {stuck.op_type} {stuck.name!r} waits for it")
    return [nodes[position] for position in order]


def _value_info(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto | None:
    values = (value for field in (graph.input, graph.value_info, graph.output) for value in field)
    return next((value for value in values if value.name == name), None)
