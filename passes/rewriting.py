"""The common frame of passes that look at single nodes, write something else in their place, or say why they stay.

A pass of this kind is a list of operators and one function. The function looks first, raises :func:`refused` where
something stands against it, and only then writes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.arithmetic import is_arithmetic
from passes.base import GraphPass, PassResult, graph_output_names, walk_graphs
from passes.cleanup.rewiring import drop_nodes, is_op
from passes.node_builder import NodeBuilder
from passes.node_values import constant
from passes.precision.names import tensor_names, unique_name
from passes.refusal import RefusedError, refused
from passes.shapes.dtypes import infer_dtypes

Array = np.ndarray[Any, Any]

_LONGEST_CHAIN = 12
#: Of what a constant is rounded by, relative to the largest element; bfloat16 rounds by half as much.
_LARGEST_ERROR = 2.0**-8


class NodeRewrite(GraphPass):
    """Rewrites the nodes of :attr:`operators` one by one, in the main graph and its subgraphs.

    Local functions are left alone: they have no initializers, and their types depend on who calls them.
    """

    #: Standard operators that are looked at.
    operators: ClassVar[tuple[str, ...]]
    #: What the report calls the rewritten places.
    what: ClassVar[str]
    #: Whether :meth:`rewrite` asks for element types, which exporters leave out.
    typed: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Write what takes the place of ``node``.

        Raises:
            RefusedError: it stays, and nothing was changed.
        """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Rewrite every place; see the class."""
        result = PassResult()
        scopes = [s for s in walk_graphs(graph, functions=False) if any(is_op(n, *self.operators) for n in s.nodes)]
        if scopes and self.typed:
            infer_dtypes(graph)
        names = tensor_names(graph) if scopes else set()
        for scope in scopes:
            site = Site(graph, scope, names)
            for node in [node for node in scope.nodes if is_op(node, *self.operators)]:
                if site.is_gone(node):
                    continue
                try:
                    self.rewrite(node, site)
                except RefusedError as error:
                    result.refusals.append(error.refusal.at(node))
                else:
                    result.count(self.what)
            site.finish()
        if result.modified:
            graph.cleanup(remove_unused_graph_inputs=False)
        return result


class Site:
    """A graph under rewrite: what stands around a node, and where new nodes go.

    Args:
        root: the main graph.
        scope: the graph whose nodes are looked at: ``root`` or one inside it.
        names: the names of all tensors of ``root``; new ones are added.
    """

    def __init__(self, root: gs.Graph, scope: gs.Graph, names: set[str]) -> None:
        self.root, self.scope, self.names = root, scope, names
        self._outputs = graph_output_names(root)
        self._own = {id(node) for node in scope.nodes}
        self._before: dict[int, list[gs.Node]] = {}
        self._gone: dict[int, gs.Node] = {}

    @property
    def opset(self) -> int:
        """The opset of the default domain."""
        return int(self.root.opset)

    def builder(self, node: gs.Node) -> NodeBuilder:
        """Adds nodes that will stand before ``node``, where all that it reads is computed."""
        return NodeBuilder(self._before.setdefault(id(node), []), node, self.names)

    def release(self, node: gs.Node) -> gs.Tensor:
        """Take ``node`` out; its first output, which somebody else is to compute, is returned."""
        output = node.outputs[0]
        self._gone[id(node)] = node
        node.inputs.clear()
        node.outputs.clear()
        return output

    def is_gone(self, node: gs.Node) -> bool:
        """Whether ``node`` was taken out."""
        return id(node) in self._gone

    def finish(self) -> None:
        """Bring the nodes of the graph in order, new ones among them, and those that were put before new ones."""
        nodes: list[gs.Node] = []
        waiting = list(reversed(self.scope.nodes))
        while waiting:
            new = self._before.pop(id(waiting[-1]), ())
            if not new:
                nodes.append(waiting.pop())
            waiting += reversed(new)
        if len(nodes) != len(self.scope.nodes):
            self.scope.nodes = nodes
        drop_nodes(self.scope, [node for node in nodes if self.is_gone(node)])

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether the model, or a graph inside it, gives ``tensor``."""
        return tensor.name in self._outputs

    def is_free(self, tensor: gs.Tensor) -> bool:
        """Whether ``tensor`` has one reader and is no output: it may go with that reader."""
        return len({id(node) for node in tensor.outputs}) == 1 and not self.is_output(tensor)

    def producer(self, tensor: gs.Tensor, *operators: str) -> gs.Node | None:
        """The node that computes ``tensor`` where it is one of ``operators``."""
        node = tensor.inputs[0] if tensor.inputs else None
        return node if node is not None and is_op(node, *operators) else None

    def weight(self, tensor: gs.Tensor, what: str) -> Array:
        """The values of a constant that one node alone reads.

        Raises:
            RefusedError: it is computed, or others read it, too.
        """
        values = constant(tensor)
        if values is None:
            raise refused(f"its {what} {tensor.name!r} is computed")
        if not self.is_free(tensor):
            raise refused(f"its {what} {tensor.name!r} is read by other nodes too")
        return values

    def name(self, base: str) -> str:
        """A name that no tensor has."""
        return unique_name(base, self.names)

    def ends(self, start: gs.Tensor) -> Iterator[gs.Node]:
        """The nodes at which arithmetic that begins with ``start`` may be cut off: nothing else reads what is between.

        a -> Mul -> b -> Add -> c: Mul is one; Add is one, unless something else reads b.
        """
        reached: list[gs.Node] = []
        waiting = list(start.outputs)
        while waiting and len(reached) < _LONGEST_CHAIN:
            node = waiting.pop(0)
            if id(node) in self._own and is_arithmetic(node) and not any(node is other for other in reached):
                reached.append(node)
                waiting += node.outputs[0].outputs
        for last in reached:
            inside = _leading_to(last, reached)
            between = [start, *(node.outputs[0] for node in inside if node is not last)]
            ids = {id(node) for node in inside}
            if not any(self.is_output(t) or any(id(node) not in ids for node in t.outputs) for t in between):
                yield last


def narrowed(values: Array, dtype: np.dtype[Any], what: str) -> Array:
    """``values`` [..., N] of a new constant, in the type of the one that it takes the place of.

    Raises:
        RefusedError: they are too large or too small for it: 60000 * 2 in float16.
    """
    exact = np.asarray(values, np.float64)
    finite = np.isfinite(exact)
    with np.errstate(over="ignore"):
        result = exact.astype(dtype)
    error = np.abs(result[finite] - exact[finite])
    if error.max(initial=0) > _LARGEST_ERROR * np.abs(exact[finite]).max(initial=0):
        raise refused(f"its new {what} is out of the range of {dtype}")
    return result


def _leading_to(last: gs.Node, nodes: list[gs.Node]) -> list[gs.Node]:
    """Those of ``nodes`` that ``last`` is computed from, and itself."""
    inside = [last]
    for node in inside:
        inside += [
            other
            for other in nodes
            if any(other.outputs[0] is tensor for tensor in node.inputs) and not any(other is item for item in inside)
        ]
    return inside
