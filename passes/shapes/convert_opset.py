"""Raise the version of the default operator set."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, node_label, walk_graphs
from passes.errors import RewriteError
from passes.precision.names import tensor_names
from passes.registry import register
from passes.shapes.dtypes import infer_dtypes
from passes.shapes.early_opsets import FIRST, raise_to_first
from passes.shapes.operator_changes import ENGINE_OPERATORS, breaking_versions
from passes.shapes.opset_adapters import ADAPTERS, ASK_FOR_SHAPES, Site, next_adapter
from passes.shapes.ranks import ProvedShapes

_OURS = "ai.graphcore"
_DEFAULT_DOMAINS = ("", "ai.onnx", None)


@register("convert_opset")
class ConvertOpset(GraphPass):
    """Bring the model to opset ``target`` of the default domain at least; a newer model stays as it is.

    Nodes whose operator changed in between are spelt anew, in place (:mod:`passes.shapes.opset_adapters`); all others
    stay as they are, and tensors keep their names. Where the rank of a tensor decides, as for an older Softmax, it is
    inferred first. Nodes of other domains are left alone. No weight is read or copied.

    Covers the main graph, its subgraphs, and the local functions, each from the opset that it imports.

    Args:
        target: the opset wanted.
    """

    def __init__(self, target: int) -> None:
        super().__init__()
        self.target = int(target)
        newest = onnx.defs.onnx_opset_version()
        if not 1 <= self.target <= newest:
            raise RewriteError(f"opset {self.target} is not known to the installed onnx, which knows 1 to {newest}")

    def apply(self, graph: gs.Graph) -> PassResult:
        """Convert the graph in place.

        Raises:
            RewriteError: an operator is not known, or changed in a way that this node cannot follow.
        """
        result = PassResult()
        if graph.opset >= self.target:
            return result
        old, functions = graph.opset, [function for function in graph.functions if self._is_raised(function)]
        for scope in (graph, *functions):
            self._check(scope)
        if old < FIRST:
            raise_to_first(graph)
        if any(
            next_adapter(node.op, scope.opset, self.target) for scope in (graph, *functions) for node in _nodes(scope)
        ):
            infer_dtypes(graph)  # now: the types of functions follow from their calls
        shapes = (
            ProvedShapes(graph)
            if any(_asks_for_shapes(node, graph.opset, self.target) for node in _nodes(graph))
            else None
        )
        self._raise(graph, shapes)
        for function in functions:
            self._raise(function, None)
        result.count("opset versions raised", self.target - old)
        return result

    def _is_raised(self, function: gs.Function) -> bool:
        return bool(function.domain != _OURS and function.opset < self.target)

    def _check(self, scope: gs.Graph) -> None:
        """Refuse what is not known, before anything is changed."""
        for node in _nodes(scope):
            if node.op in ENGINE_OPERATORS:
                continue
            try:
                versions = breaking_versions(node.op, max(scope.opset, FIRST), self.target)
            except KeyError as error:
                raise RewriteError(f"{node_label(node)}: opset {self.target} has no operator {node.op}") from error
            unknown = set(versions) - {since for since, _ in ADAPTERS.get(node.op, ())}
            if unknown:
                raise RewriteError(
                    f"{node_label(node)}: {node.op} changed in opset {min(unknown)}, in a way that is not known here; "
                    f"export the model with opset {self.target}"
                )

    def _raise(self, root: gs.Graph, shapes: ProvedShapes | None) -> None:
        """Adapt the nodes of a graph or a function and of the graphs in them, and say so in what it imports."""
        names, scopes, old = tensor_names(root), list(walk_graphs(root, functions=False)), root.opset
        for scope in scopes:
            self._adapt(scope, old, Site(scope, names, self.target, shapes))
        for scope in scopes:
            scope.opset = max(old, self.target)
        domains = [item for item in root.import_domains or () if item.domain not in _DEFAULT_DOMAINS]
        root.import_domains = [onnx.helper.make_opsetid("", root.opset), *domains]

    def _adapt(self, scope: gs.Graph, old: int, site: Site) -> None:
        nodes = []
        for node in list(scope.nodes):
            if node.domain in _DEFAULT_DOMAINS:
                _adapt_node(node, old, site)
            nodes += [*site.before, node, *site.after]
            site.before, site.after = [], []
        scope.nodes[:] = nodes


def _adapt_node(node: gs.Node, old: int, site: Site) -> None:
    change = next_adapter(node.op, old, site.target)
    while change is not None:
        version, adapt = change
        adapt(node, site)
        change = next_adapter(node.op, version, site.target)


def _nodes(root: gs.Graph) -> Iterator[gs.Node]:
    """The nodes of the default domain, of ``root`` and the graphs in it."""
    for scope in walk_graphs(root, functions=False):
        yield from (node for node in scope.nodes if node.domain in _DEFAULT_DOMAINS)


def _asks_for_shapes(node: gs.Node, old: int, target: int) -> bool:
    changes = node.op in ASK_FOR_SHAPES and next_adapter(node.op, old, target) is not None
    return changes and node.attrs.get("axis") != -1
