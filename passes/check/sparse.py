"""Sparse weights as dense ones: no operator computes with sparse ones, an engine spreads them out as well."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from passes.errors import RewriteError
from passes.node_protos import walk_graphs, walk_nodes

#: The most bytes that sparse initializers may take when they are dense, whatever they hold, and for each byte held.
_MOST_BYTES, _MOST_TIMES = 1 << 24, 32


def densify(model: onnx.ModelProto) -> None:
    """Replace the sparse initializers of the main graph and of subgraphs by dense ones of the same name, in place.

    Constant nodes with a sparse value, those of local functions too, get a dense one.

    Raises:
        RewriteError: one is malformed, or much larger than what it holds.
    """
    graphs = list(walk_graphs(model.graph))
    constants = list(_sparse_constants(model))
    sparse = [tensor for graph in graphs for tensor in graph.sparse_initializer]
    sparse += [attribute.sparse_tensor for attribute in constants]
    spare = max(_MOST_BYTES, _MOST_TIMES * sum(tensor.ByteSize() for tensor in sparse))
    for tensor in sparse:
        spare -= _dense_bytes(tensor)
        if spare < 0:
            raise RewriteError(
                f"sparse initializer {tensor.values.name!r} of extents {list(tensor.dims)} would take "
                f"{_dense_bytes(tensor)} bytes when it is dense, which it has to be to run, and holds few values; "
                "export the model with dense weights"
            )
    for graph in graphs:
        if graph.sparse_initializer:
            graph.initializer.extend([_dense(tensor) for tensor in graph.sparse_initializer])
            del graph.sparse_initializer[:]
    for attribute in constants:
        dense = _dense(attribute.sparse_tensor)
        attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _sparse_constants(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for body in bodies for node in walk_nodes(body)):
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield from (item for item in node.attribute if item.type == onnx.AttributeProto.SPARSE_TENSOR)


def _dense_bytes(sparse: onnx.SparseTensorProto) -> int:
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(sparse.values.data_type).itemsize
    return int(math.prod(max(extent, 0) for extent in sparse.dims) * itemsize)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    name, dims = sparse.values.name, list(sparse.dims)
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    if not dims or min(dims) < 1 or values.dtype == object:
        raise RewriteError(f"sparse initializer {name!r} has extents {dims} of {values.dtype}; export a dense one")
    places = indices @ _strides(dims) if indices.ndim == 2 and indices.shape[1] == len(dims) else indices
    if indices.dtype != np.int64 or places.shape != values.shape or np.any((places < 0) | (places >= math.prod(dims))):
        raise RewriteError(f"sparse initializer {name!r}: its indices do not fit {values.size} values in {dims}")
    dense = np.zeros(math.prod(dims), values.dtype)
    dense[places] = values
    return numpy_helper.from_array(dense.reshape(dims), name)


def _strides(dims: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How many places apart neighbours along each axis are."""
    return np.array([math.prod(dims[axis + 1 :]) for axis in range(len(dims))], np.int64)
