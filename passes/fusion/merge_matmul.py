"""The passes that merge products by name, or all that read one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.graph_outputs import split_names
from passes.cleanup.rewiring import is_op
from passes.errors import RewriteError
from passes.fusion.merge_products import Member, bias_behind, merge
from passes.node_values import constant
from passes.precision.names import tensor_names
from passes.refusal import RefusedError
from passes.registry import register
from passes.rewriting import Site


@register("merge_matmul")
class MergeMatmul(GraphPass):
    """Makes one MatMul of several that multiply one tensor by constant matrices.

    [B, S, K] -> MatMul by [K, N] and by [K, M] becomes [B, S, K] -> MatMul by [K, N + M] -> Split. Leaves alone, with a
    reason: matrices that are computed, that another node reads, or of other rows; names that read different tensors, or
    of a single product; models below opset 13. Works on the main graph and its subgraphs; functions are left alone.

    Args:
        merge_str: names of the MatMuls to merge, separated by commas; None merges all that read one tensor.
    """

    #: Whether the Add of a bias is merged too.
    with_bias: ClassVar[bool] = False

    def __init__(self, merge_str: str | Sequence[str] | None = None) -> None:
        super().__init__()
        self.names = split_names(merge_str) if merge_str else []

    def apply(self, graph: gs.Graph) -> PassResult:
        """Merge; see the class.

        Raises:
            RewriteError: a name is that of no product.
        """
        result, taken = PassResult(), tensor_names(graph)
        self._check_names(graph)
        for scope in walk_graphs(graph, functions=False):
            site = Site(graph, scope, taken)
            for group in self._groups(scope):
                try:
                    merge(group, site)
                except RefusedError as error:
                    result.refusals.append(error.refusal.at(group[0].product))
                else:
                    result.count("products merged", len(group))
            site.finish()
        if self.names and not result.modified and not result.refusals:
            result.refuse(self.names[0], "no two of the named nodes are products that can be one")
        return result

    def _groups(self, scope: gs.Graph) -> list[list[Member]]:
        """The products to merge with each other: those that are named, or all of one tensor; each at least two."""
        products = [node for node in scope.nodes if is_op(node, "MatMul")]
        if self.names:
            products = [node for node in products if node.name in self.names]
            groups = {0: products}
        else:
            groups = {}
            for node in products:
                if constant(node.inputs[1]) is not None and constant(node.inputs[0]) is None:
                    groups.setdefault(id(node.inputs[0]), []).append(node)
        members = [[self._member(node) for node in group] for group in groups.values()]
        if self.with_bias:
            members = [[member for member in group if member.bias is not None] for group in members]
        return [group for group in members if len(group) > 1]

    def _member(self, node: gs.Node) -> Member:
        return Member(node, bias_behind(node) if self.with_bias else None)

    def _check_names(self, graph: gs.Graph) -> None:
        names = {node.name for scope in walk_graphs(graph, functions=False) for node in scope.nodes}
        unknown = [name for name in self.names if name not in names]
        if unknown:
            raise RewriteError(f"{', '.join(map(repr, unknown))}: no node has this name; --dump_passes shows the names")


@register("merge_matmul_add")
class MergeMatmulAdd(MergeMatmul):
    """Makes one MatMul and one Add of several pairs of them that read one tensor.

    [B, S, K] -> MatMul by [K, N] -> Add of [N], and the same by [K, M] and [M], becomes [B, S, K] -> MatMul by
    [K, N + M] -> Add of [N + M] -> Split. Leaves alone, with a reason, what :class:`MergeMatmul` does, and products or
    biases that something else reads or that are no vector of the columns.

    Args:
        merge_str: names of MatMuls and of their Adds, separated by commas; None merges all that read one tensor.
    """

    with_bias = True
