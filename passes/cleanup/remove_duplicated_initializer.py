"""Keep one of several initializers with the same content."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.rewiring import replace_uses
from passes.registry import register

_SAMPLE_BYTES = 4096


@register("remove_duplicated_initializer")
@register("eliminate_duplicate_initializer")
class RemoveDuplicatedInitializer(GraphPass):
    """Lets the readers of equal initializers of one graph share the first of them.

    Equal means the same type, shape and bytes. Contents are read only where type and shape agree, and read whole only
    where their beginnings agree. Initializers that are graph outputs, sparse ones and strings are left alone.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Merge the duplicates of the main graph and of each subgraph."""
        result = PassResult()
        for scope in walk_graphs(graph, functions=False):
            for first, *others in _equal_groups(_candidates(scope)):
                for other in others:
                    result.count(
                        "bytes saved", int(np.prod(other.shape, dtype=np.int64)) * np.dtype(other.dtype).itemsize
                    )
                    replace_uses(other, first)
                result.count("initializers merged", len(others))
        return result


def _candidates(scope: gs.Graph) -> list[gs.Constant]:
    return [
        tensor
        for tensor in scope.tensors().values()
        if isinstance(tensor, gs.Constant)
        and not isinstance(tensor._values, SparseValues)
        and not isinstance(tensor.dtype, int)  # a type that numpy lacks cannot be read without changing it
        and np.dtype(tensor.dtype) != np.dtype(object)
        and tensor not in scope.outputs
    ]


def _equal_groups(tensors: Iterable[gs.Constant]) -> list[list[gs.Constant]]:
    """Groups of two and more equal tensors, each step reading more of them than the one before."""
    groups = [list(tensors)]
    keys: list[Callable[[gs.Constant], Hashable]] = [
        lambda tensor: (str(np.dtype(tensor.dtype)), tuple(tensor.shape)),
        lambda tensor: _content(tensor)[:_SAMPLE_BYTES].tobytes(),
        lambda tensor: hashlib.blake2b(_content(tensor).data).digest(),
    ]
    for key in keys:
        groups = [part for group in groups for part in _split(group, key)]
    return groups


def _split(group: list[gs.Constant], key: Callable[[gs.Constant], Hashable]) -> list[list[gs.Constant]]:
    parts: dict[Hashable, list[gs.Constant]] = defaultdict(list)
    for tensor in group:
        parts[key(tensor)].append(tensor)
    return [part for part in parts.values() if len(part) > 1]


def _content(tensor: gs.Constant) -> np.ndarray:
    """The tensor's bytes, uint8 [n]. A tensor that is not loaded stays so, and is exported without a detour."""
    values = tensor._values
    array = onnx.numpy_helper.to_array(values.tensor) if isinstance(values, LazyValues) else values
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
