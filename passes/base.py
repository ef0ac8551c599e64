"""What a pass is.

A *graph pass* works on an onnx-graphsurgeon graph and says what it did; every built-in pass is one. A *model pass*
takes and returns a ``ModelProto``; it is the interface that scripts subclass.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import onnx
import onnx_graphsurgeon as gs

from passes import node_protos
from passes.graph_io import export_graph, import_graph
from passes.refusal import NodeName, Refusal

PassClass = TypeVar("PassClass", bound=type)


@dataclass
class PassResult:
    """What one run of a graph pass did.

    Attributes:
        counts: what was changed, by a short name in the plural ("casts removed": 3). Empty means nothing changed.
        refusals: places where the pass might have been expected to act and did not.
        details: figures for the report that are no counts of changes (the packed share, for example).
    """

    counts: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        """Add ``number`` changes of the kind ``what``; zero adds nothing."""
        if number:
            self.counts[what] = self.counts.get(what, 0) + number

    def refuse(self, node: gs.Node | NodeName | str, reason: str) -> None:
        """Note that ``node`` was left alone because of ``reason``; a text names a tensor, a function or the model."""
        if isinstance(node, str):
            node = NodeName("", node)
        self.refusals.append(Refusal(node if isinstance(node, NodeName) else NodeName.of(node), reason))

    @property
    def modified(self) -> bool:
        """Whether the graph changed."""
        return bool(self.counts)


class Pass:
    """A rewrite of a model: override :meth:`run`. Calling the pass runs it."""

    #: The registered name; `register` sets it.
    name: str = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what a script's subclass passes on; it means nothing here."""
        self.logger = logging.getLogger("poprt")

    def run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the rewritten model. The given model may be changed in place."""
        raise NotImplementedError(f"{type(self).__name__} must override run(model) -> model")

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Run the pass."""
        return self.run(model)

    @staticmethod
    def get_pass(name: str, *args: Any, **options: Any) -> Pass:
        """Make the registered pass ``name``; ``args`` and ``options`` go to its constructor."""
        raise NotImplementedError(f"{name}: passes.registry, which every import of `passes` loads, gives this method")

    @staticmethod
    def register_pass(name: str) -> Callable[[PassClass], PassClass]:
        """Class decorator: the same as ``passes.register``."""
        raise NotImplementedError(f"{name}: passes.registry gives this method too")

    @staticmethod
    def get_registered_passes() -> Sequence[str]:
        """The same as ``passes.get_registered_passes``."""
        raise NotImplementedError("passes.registry gives this method too")

    def traverse_graph(
        self, graph: onnx.GraphProto, transform: Callable[..., onnx.GraphProto], is_main_graph: bool = True
    ) -> onnx.GraphProto:
        """Apply ``transform`` to ``graph`` and to every graph inside its nodes, innermost first.

        ``transform`` takes the graph, or the graph and whether it is the main graph, and returns the graph.
        """
        for node in graph.node:
            for nested in node_protos.subgraphs(node):
                nested.CopyFrom(self.traverse_graph(nested, transform, False))
        return transform(graph, is_main_graph) if _takes_two(transform) else transform(graph)


def _takes_two(transform: Callable[..., Any]) -> bool:
    try:
        inspect.signature(transform).bind(None, None)
    except TypeError:
        return False
    return True


class GraphPass(Pass, ABC):
    """A pass over an onnx-graphsurgeon graph: override :meth:`apply`.

    ``apply`` gets the main graph and answers for its subgraphs and local functions too (:func:`walk_graphs`).
    It changes the graph in place and returns what it did. A second run must change nothing.
    """

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def apply(self, graph: gs.Graph) -> PassResult:
        """Rewrite ``graph`` in place and say what was done."""

    def run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Run this pass alone on a model. The manager is cheaper for several: it imports the graph once."""
        graph = import_graph(model)
        self.apply(graph)
        return export_graph(graph)


def node_label(node: gs.Node) -> str:
    """How messages name a node: its operator and its name, or its first output where it has no name."""
    return str(NodeName.of(node))


def subgraphs(node: gs.Node) -> Iterator[gs.Graph]:
    """The graphs that ``node`` holds in its attributes (If, Loop, Scan)."""
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, gs.Graph))


def walk_graphs(graph: gs.Graph, *, functions: bool = True) -> Iterator[gs.Graph]:
    """``graph``, every graph nested in its nodes, and (where asked) every local function, which is a graph too."""
    yield graph
    for node in graph.nodes:
        for nested in subgraphs(node):
            yield from walk_graphs(nested, functions=False)
    if functions:
        for function in graph.functions:
            yield from walk_graphs(function, functions=False)


def graph_output_names(graph: gs.Graph) -> frozenset[str]:
    """The names of what the main graph and its subgraphs give as their outputs."""
    return frozenset(tensor.name for scope in walk_graphs(graph, functions=False) for tensor in scope.outputs)
