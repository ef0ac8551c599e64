"""float32 to float16."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, node_label, walk_graphs
from passes.graph_io import opset_imports
from passes.precision.float_islands import CONTROL_FLOW, add_bridges, all_nodes, float_nodes
from passes.precision.half_losses import Loss, losses
from passes.precision.half_reach import beyond_half
from passes.precision.half_rules import HalfRules, Precision
from passes.precision.half_scope import HalfWriter
from passes.precision.half_trial import refused_in_half
from passes.precision.half_values import HalfValues
from passes.registry import register
from passes.shapes.dtypes import infer_dtypes

_MOST_NAMED = 3


@register("float_to_half")
class FloatToHalf(GraphPass):
    """Make float32 inputs, outputs, weights and computations float16.

    Operators that lose too much in float16, or do not have it, stay float32 with a Cast on each edge between the two
    worlds; neighbours in float32 share theirs. So do nodes that the engine refuses in float16, and those whose weights
    float16 cannot hold: beyond its range, or lost below it. One warning names the latter, the report all of them.
    A mask's fill beyond float16 becomes ±60000, which hides as well. Epsilons stay.

    A tensor keeps its name: where both forms are needed the float32 one is called ``<name>_float``.

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
            self._keep_what_half_cannot(root, kept, rules, values, result)
            HalfWriter(root, rules, values, result).run()
        result.count("values clamped", sum(values.clamped.values()))
        values.report()
        return result

    def _keep_what_half_cannot(
        self, root: gs.Graph, kept: set[int], rules: HalfRules, values: HalfValues, result: PassResult
    ) -> None:
        """Grow ``kept``, which ``rules`` read, by what the engine refuses in float16 and what would lose weights."""
        nodes = all_nodes(root)
        for node in list(refused_in_half(nodes, rules, opset_imports(root))):
            kept.add(id(node))
            result.refuse(node, "stays float32: onnxruntime does not take it in float16")
        plain = [node for node in nodes if node.op not in CONTROL_FLOW and rules.is_operator(node)]
        lost = list(losses(plain, lambda node, i: rules.input(node, i) is Precision.HALF, values.fills))
        for loss in lost:
            result.refuse(loss.node, f"stays float32: {loss.reason}")
        reach = beyond_half(nodes, lost)
        kept.update(id(node) for node in (*(loss.node for loss in lost), *reach.nodes))
        add_bridges(nodes, kept)
        if lost:
            self.logger.warning("%s", _say_lost(lost))
        for name in (tensor.name for tensor in root.outputs if tensor.name in reach.large):
            self.logger.warning("output %r is float16 and may overflow: it is about %.2g", name, reach.large[name])

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


def _say_lost(lost: Sequence[Loss]) -> str:
    named = "; ".join(f"{node_label(loss.node)}: {loss.reason}" for loss in lost[:_MOST_NAMED])
    more = f"; and {len(lost) - _MOST_NAMED} more, see the report" if len(lost) > _MOST_NAMED else ""
    return f"{len(lost)} node{'s' * (len(lost) > 1)} left in float32 because of the weights: {named}{more}"


def _own_functions(graph: gs.Graph) -> list[gs.Function]:
    return [function for function in graph.functions if function.domain != "ai.graphcore"]


def _refuse_untyped(root: gs.Graph, result: PassResult) -> None:
    """Name the tensors whose type nobody knows; if one holds float32, the engine will say that types do not match."""
    for scope in walk_graphs(root, functions=False):
        for node in scope.nodes:
            for tensor in node.outputs:
                if tensor.name and tensor.dtype is None and tensor.outputs:
                    result.refuse(node, f"the type of its output {tensor.name!r} is not known, so it is left as it is")
