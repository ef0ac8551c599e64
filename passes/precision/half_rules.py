"""Which floats of a node become float16: tables, and the schema (onnx's or the engine's) where no table speaks.

Three answers for an input or output: HALF, FLOAT (stays float32, a Cast on the edge where needed), EITHER (the node
takes what there is, a Cast or Shape for example).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import onnx
import onnx_graphsurgeon as gs

from passes.engine_operators import engine_schema
from passes.operators import Family, members
from passes.shapes.dtypes import allowed_types, find_schema, type_variable


class Precision(Enum):
    """What an input or output of a node wants to be."""

    HALF = "half"
    FLOAT = "float"
    EITHER = "either"


_STATISTICS = """LRN LpNormalization LpPool MeanVarianceNormalization ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean
ReduceProd ReduceSumSquare"""
_INDEX_ARITHMETIC = "CumSum Range"  # float16 counts to 2048 only
_QUANTISATION = """DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear"""
_BITS = "BitCast"  # it reads the bits of a float32 as another type
_OPTIONAL = "Optional OptionalGetElement"  # what it holds has the type that its producer or the caller gives it
#: Operators of the default domain that stay float32: squares, sums of squares and their roots lose most.
FLOAT_OPS = members(Family.POWER).union(
    f"{_STATISTICS} {_INDEX_ARITHMETIC} {_QUANTISATION} {_BITS} {_OPTIONAL}".split()
)

#: Reductions and exponentials that leave float16's range first; float32 where overflow patterns are avoided.
OVERFLOW_OPS = frozenset(["Exp", "ReduceL1", "ReduceSum", "Softplus", "Softmax", "LogSoftmax"])

_EITHER_OPS = members(Family.EXTENT) | {"Cast"}


class HalfRules:
    """Answers for the nodes of one graph or function.

    Args:
        opsets: domain -> version.
        float_nodes: ids of the nodes that stay float32 as a whole.
        functions: local functions by (domain, name) -> whether their bodies become float16.
    """

    def __init__(
        self, opsets: Mapping[str, int], float_nodes: set[int], functions: Mapping[tuple[str, str], bool]
    ) -> None:
        self._opsets, self._float_nodes, self._functions = opsets, float_nodes, functions

    def input(self, node: gs.Node, index: int) -> Precision:
        """What float input ``index`` of ``node`` should be."""
        if node.op in _EITHER_OPS or (node.op == "CastLike" and index == 0):
            return Precision.EITHER
        return self._place(node, index, output=False)

    def output(self, node: gs.Node, index: int) -> Precision:
        """What float output ``index`` of ``node`` will be."""
        if node.op == "Cast":
            return Precision.EITHER
        return self._place(node, index, output=True)

    def is_operator(self, node: gs.Node) -> bool:
        """Whether onnx or the engine knows the node, and no local function stands behind it."""
        return (node.domain or "", node.op) not in self._functions and self._schema(node) is not None

    def _schema(self, node: gs.Node) -> onnx.defs.OpSchema | None:
        if node.domain == "ai.graphcore":
            return None
        return find_schema(node, self._opsets) or engine_schema(node.domain or "", node.op)

    def _place(self, node: gs.Node, index: int, *, output: bool) -> Precision:
        if id(node) in self._float_nodes:
            return Precision.FLOAT
        domain = node.domain or ""
        if (domain, node.op) in self._functions:
            return Precision.HALF if self._functions[domain, node.op] else Precision.FLOAT
        if domain == "ai.graphcore":
            return Precision.HALF
        schema = self._schema(node)
        if schema is None:
            return Precision.FLOAT
        variable = type_variable(schema.outputs if output else schema.inputs, index)
        if not variable:
            return Precision.HALF  # a variadic parameter of any types: If, Loop, Scan
        allowed = allowed_types(schema, variable)
        takes_half = "tensor(float16)" in allowed or "seq(tensor(float16))" in allowed
        return Precision.HALF if takes_half else Precision.FLOAT
