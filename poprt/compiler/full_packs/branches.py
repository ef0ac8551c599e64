"""An If around what a full pack does not need: its nodes move into one branch, and what replaces them is the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import graph_output_names
from passes.cleanup.rewiring import onnx_dtype

_WHEN_FULL, _OTHERWISE = "full", "mixed"


class Branches:
    """Writes Ifs into a graph. Its nodes stay in their order.

    Args:
        graph: sorted; it is changed in place.
        condition: bool, whether the pack is full.
    """

    def __init__(self, graph: gs.Graph, condition: gs.Tensor) -> None:
        self._graph = graph
        self._condition = condition
        self._outputs = graph_output_names(graph)
        #: id of a node that runs in mixed packs alone.
        self._moved: set[int] = set()

    def instead(self, result: gs.Tensor, sources: Iterable[gs.Tensor], left_out: gs.Node, full: list[gs.Node]) -> bool:
        """Make ``result`` by ``full`` in a full pack, and otherwise by what makes it now.

        Args:
            result: of the main graph. What it alone needs moves into the other branch.
            sources: what ``full`` reads; what makes them stays.
            left_out: what a full pack is to do without. Where something else needs it, nothing is changed.
            full: the nodes of the new branch; the last one gives what stands for ``result``.
        """
        kept = {id(node) for tensor in sources for node in tensor.inputs}
        mixed = self._needed_alone(result.inputs[0], kept)
        if not any(node is left_out for node in mixed):
            return False
        self._write([result], full, mixed)
        return True

    def move_shared(self) -> None:
        """Move what several branches for mixed packs read, and nothing else, into an If of its own before the first."""
        first = next((place for place, node in enumerate(self._graph.nodes) if _has_branches(node)), 0)
        readers, shared = set(self._moved), list[gs.Node]()
        for node in reversed(self._graph.nodes[:first]):
            typed = all(onnx_dtype(tensor) is not None or not _is_read(tensor, self._moved) for tensor in node.outputs)
            if typed and self._only_read_by(node, readers):
                readers.add(id(node))
                shared.insert(0, node)
        results = [tensor for node in shared for tensor in node.outputs if _is_read(tensor, self._moved)]
        if results:
            self._write(results, [_nothing(tensor) for tensor in results], shared)

    def _needed_alone(self, last: gs.Node, kept: set[int]) -> list[gs.Node]:
        """``last`` and the nodes before it that nothing else reads, in order; ``kept`` are none of them."""
        alone = {id(last)}
        nodes = [last]
        end = next(place for place, node in enumerate(self._graph.nodes) if node is last)
        for node in reversed(self._graph.nodes[:end]):
            if id(node) not in kept and not _has_branches(node) and self._only_read_by(node, alone):
                alone.add(id(node))
                nodes.insert(0, node)
        return nodes

    def _only_read_by(self, node: gs.Node, readers: set[int]) -> bool:
        read = [reader for tensor in node.outputs for reader in tensor.outputs]
        return (
            bool(read)
            and all(id(reader) in readers for reader in read)
            and not any(tensor.name in self._outputs for tensor in node.outputs)
        )

    def _write(self, results: Sequence[gs.Tensor], full: Sequence[gs.Node], mixed: Sequence[gs.Node]) -> None:
        """Put an If that gives ``results`` where the last of ``mixed`` stands."""
        place = next(index for index, node in enumerate(self._graph.nodes) if node is mixed[-1])
        name = f"poprt_full_{results[0].name}"
        ends = [_renamed(tensor) for tensor in results]
        last = [tensor for node in full[-len(results) :] for tensor in node.outputs]
        branches = {
            "then_branch": self._branch(f"{name}_{_WHEN_FULL}", full, last),
            "else_branch": self._branch(f"{name}_{_OTHERWISE}", mixed, ends),
        }
        choice = gs.Node("If", name, branches, [self._condition], list(results))
        self._graph.nodes[place] = choice
        moved = {id(node) for node in mixed}
        self._moved |= moved
        self._graph.nodes = [node for node in self._graph.nodes if id(node) not in moved]

    def _branch(self, name: str, nodes: Sequence[gs.Node], outputs: Sequence[gs.Tensor]) -> gs.Graph:
        return gs.Graph(
            list(nodes),
            outputs=list(outputs),
            name=name,
            opset=self._graph.opset,
            import_domains=self._graph.import_domains,
        )


def _renamed(result: gs.Tensor) -> gs.Tensor:
    """A tensor that takes the place of ``result`` in the branch that made it."""
    node = result.inputs[0]
    inner = gs.Variable(f"{result.name}_{_OTHERWISE}", result.dtype)
    index = next(index for index, tensor in enumerate(node.outputs) if tensor is result)
    node.outputs[index] = inner
    return inner


def _nothing(result: gs.Tensor) -> gs.Node:
    """A node that gives an empty tensor of the type of ``result``, which a full pack does not read."""
    output = gs.Variable(f"{result.name}_{_WHEN_FULL}", result.dtype)
    value = gs.Constant("", np.zeros(0, result.dtype))
    return gs.Node("Constant", output.name, {"value": value}, [], [output])


def _is_read(tensor: gs.Tensor, readers: set[int]) -> bool:
    return any(id(reader) in readers for reader in tensor.outputs)


def _has_branches(node: gs.Node) -> bool:
    return any(isinstance(value, gs.Graph) for value in node.attrs.values())
