"""Which operators take int32 where an int64 stood.

The ONNX schema says what is allowed; onnxruntime's CPU kernels cover less. An operator that is not in the table gets
its int64 back by a Cast, which is always right.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from passes.operators import MOVES, WHOLE, Family, members
from passes.shapes.dtypes import allowed_types, find_schema, type_variable

#: Operators of the default domain with int32 kernels in onnxruntime on a CPU, for every type variable that allows it.
INT32_KERNELS = (
    MOVES
    | WHOLE
    | members(Family.CONVERSION, Family.EXTENT)
    | {"ArgMax", "ArgMin", "CumSum", "NonZero", "ReduceMax", "ReduceMin", "ReduceSum", "ScatterElements"}
)

# Operators of the domain ai.graphcore whose inputs may have any type.
_GENERIC = frozenset(["AttentionMask", "Repack", "Unpack"])


def takes_int32(node: gs.Node, index: int, opsets: Mapping[str, int]) -> bool:
    """Whether input ``index`` of ``node`` may be int32, given that the others of its :func:`type_group` are."""
    if node.domain == "ai.graphcore":
        return node.op in _GENERIC
    schema = find_schema(node, opsets)
    if schema is None or node.op not in INT32_KERNELS:
        return False
    return "tensor(int32)" in allowed_types(schema, type_variable(schema.inputs, index))


def type_group(node: gs.Node, index: int, opsets: Mapping[str, int], *, output: bool = False) -> str:
    """The type variable of a parameter: those with the same one have the same type."""
    alone = f"#{index}{output}"
    if node.domain == "ai.graphcore":
        return "T" if index == 0 else alone
    schema = find_schema(node, opsets)
    if schema is None:
        return alone
    return type_variable(schema.outputs if output else schema.inputs, index) or alone
