"""float32 to float16."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.graph_io import opset_imports
from passes.precision.float_islands import CONTROL_FLOW, float_nodes
from passes.precision.half_rules import HalfRules
from passes.precision.half_scope import HalfWriter
from passes.precision.half_values import HalfValues
from passes.registry import register
from passes.shapes.dtypes import infer_dtypes


@register("float_to_half")
class FloatToHalf(GraphPass):
    """Make float32 inputs, outputs, weights and computations float16.

    Operators that lose too much in float16, or do not have it, stay float32 with a Cast on each edge between the two
    worlds; neighbours in float32 share theirs. A tensor keeps its name: where both forms are needed the float32 one
    is called ``<name>_float``. Finite values beyond float16 are clamped and reported in one warning. Epsilons stay.

    Covers subgraphs and local functions. Functions of domain ai.graphcore are generic in dtype and left as they are.
    float64 is not touched.

    Args:
        skip_op_types: operator types that stay float32; a list, or names separated by commas.
        enable_avoid_overflow_patterns: also keep wide sums, exponentials, squares and attention scores (from the
            MatMul to the Softmax) in float32.
    """

    def __init__(
        self, skip_op_types: str | Sequence[str] | None = None, enable_avoid_overflow_patterns: bool = False
    ) -> None:
        super().__init__()
        names = skip_op_types.split(",") if isinstance(skip_op_types, str) else skip_op_types or ()
        self.skip_op_types = frozenset(name.strip() for name in names if name.strip())
        self.avoid_overflow = enable_avoid_overflow_patterns

    def apply(self, graph: gs.Graph) -> PassResult:
        """Convert the main graph, its subgraphs and local functions."""
        result, values = PassResult(), HalfValues()
        infer_dtypes(graph)
        self._report_unused_skips(graph)
        functions = {(f.domain, f.name): self._is_convertible(f, result) for f in _own_functions(graph)}
        for root in [graph, *(f for f in graph.functions if functions.get((f.domain, f.name)))]:
            _refuse_untyped(root, result)
            kept = float_nodes(root, self.skip_op_types, avoid_overflow=self.avoid_overflow)
            rules = HalfRules(opset_imports(root), kept, functions)
            HalfWriter(root, rules, values, result).run()
        result.count("values clamped", sum(values.clamped.values()))
        values.report()
        return result

    def _report_unused_skips(self, graph: gs.Graph) -> None:
        present = {node.op for scope in walk_graphs(graph) for node in scope.nodes}
        for name in sorted(self.skip_op_types & CONTROL_FLOW):
            self.logger.warning("skip_op_types: %s has no precision of its own; name the operators in its body", name)
        unused = sorted(self.skip_op_types - present)
        if unused:
            self.logger.warning("skip_op_types names operators that the model does not have: %s", ", ".join(unused))

    @staticmethod
    def _is_convertible(function: gs.Function, result: PassResult) -> bool:
        """Whether the body's types are its own: a type that the caller passes in as an attribute cannot be edited."""
        for scope in walk_graphs(function, functions=False):
            for node in scope.nodes:
                for name, value in node.attrs.items():
                    is_type = name in ("to", "dtype", "output_datatype") or name.startswith("value")
                    if is_type and isinstance(value, gs.Node.AttributeRef):
                        label = f"{function.domain}.{function.name}"
                        result.refuse(label, f"{node.op} takes its type from attribute {value.name!r}: stays float32")
                        return False
        return True


def _own_functions(graph: gs.Graph) -> list[gs.Function]:
    return [function for function in graph.functions if function.domain != "ai.graphcore"]


def _refuse_untyped(root: gs.Graph, result: PassResult) -> None:
    """Name the tensors whose type nobody knows; if one holds float32, the engine will say that types do not match."""
    for scope in walk_graphs(root, functions=False):
        for node in scope.nodes:
            for tensor in node.outputs:
                if tensor.name and tensor.dtype is None and tensor.outputs:
                    result.refuse(node, f"the type of its output {tensor.name!r} is not known, so it is left as it is")
