"""float64 to float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.precision.half_values import read_values
from passes.registry import register
from passes.shapes.dtypes import DTYPE_ATTRIBUTES, has_dtype, infer_dtypes

_LARGEST = float(np.finfo(np.float32).max)
_DOUBLE, _FLOAT = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT
#: Operators outside of these domains may take float64 alone.
_KNOWN_DOMAINS = ("", "ai.onnx", None, "ai.graphcore", "com.microsoft")


@register("double_to_float")
class DoubleToFloat(GraphPass):
    """Makes every float64 of the model float32: inputs, outputs, weights and computations.

    Input [B, S] double -> MatMul by [S, H] double -> output [B, H] double becomes the same in float. Covers subgraphs
    and local functions. Does nothing, with a reason, where a finite weight is beyond float32, or where float64 meets an
    operator of a domain that may know nothing else.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Convert; see the class."""
        result = PassResult()
        infer_dtypes(graph)
        if self._is_refused(graph, result):
            return result
        for tensor in _doubles(graph):
            if isinstance(tensor, gs.Constant):
                tensor.values = read_values(tensor).astype(np.float32)
            else:
                tensor.dtype = np.dtype(np.float32)
            result.count("tensors made float32")
        for scope in walk_graphs(graph):
            for node in scope.nodes:
                result.count("attributes made float32", _convert_attributes(node))
        return result

    @staticmethod
    def _is_refused(graph: gs.Graph, result: PassResult) -> bool:
        for tensor in _doubles(graph):
            if isinstance(tensor, gs.Constant) and _is_beyond(read_values(tensor)):
                result.refuse(tensor.name, "holds finite values beyond float32")
        own = {(function.domain, function.name) for function in graph.functions}
        for scope in walk_graphs(graph):
            for node in scope.nodes:
                doubles = [t for t in [*node.inputs, *node.outputs] if has_dtype(t, np.float64)]
                if doubles and node.domain not in _KNOWN_DOMAINS and (node.domain, node.op) not in own:
                    result.refuse(node, f"an operator of {node.domain} may take float64 alone")
        return bool(result.refusals)


def _doubles(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """The float64 tensors of the graph, its subgraphs and its local functions, each once."""
    seen: set[int] = set()
    for scope in walk_graphs(graph):
        for tensor in (*scope.tensors().values(), *scope.inputs, *scope.outputs):
            if id(tensor) not in seen and has_dtype(tensor, np.float64):
                seen.add(id(tensor))
                yield tensor


def _is_beyond(values: np.ndarray[Any, Any]) -> bool:
    return bool((np.isfinite(values) & (np.abs(values) > _LARGEST)).any())


def _convert_attributes(node: gs.Node) -> int:
    """Ask for float32 where the node asks for float64; returns how often."""
    names = {"to", "dtype", DTYPE_ATTRIBUTES.get(node.op, ("", None))[0]}
    count = 0
    for name, value in list(node.attrs.items()):
        if isinstance(value, gs.Constant) and has_dtype(value, np.float64):
            node.attrs[name] = gs.Constant(value.name, read_values(value).astype(np.float32))
            count += 1
        elif name in names and _is_double(value):
            node.attrs[name] = _FLOAT
            count += 1
    return count


def _is_double(value: Any) -> bool:
    if isinstance(value, (int, np.integer)):
        return int(value) == _DOUBLE
    return isinstance(value, (type, np.dtype)) and np.dtype(value) == np.float64
