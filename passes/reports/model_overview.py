"""A model on one page: what it was made by, its operators, and its weights."""

from __future__ import annotations

import math
from collections import Counter

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.rewiring import onnx_dtype
from passes.element_sizes import stored_bytes
from passes.graph_io import header, opset_imports
from passes.registry import register


@register("model_overview")
class ModelOverview(GraphPass):
    """Prints the producer, the opsets, how many nodes there are of each operator, and the bytes of the weights.

    A BERT with weights [30522, 768] -> lines such as ``MatMul 96`` and ``weights 435.6 MB in 199 tensors``. Changes
    nothing. Counts the main graph, its subgraphs and local functions.

    Args:
        use_print: print to stdout; otherwise the lines are log messages.
    """

    def __init__(self, use_print: bool = True) -> None:
        super().__init__()
        self.use_print = use_print

    def apply(self, graph: gs.Graph) -> PassResult:
        """Print; see the class."""
        for line in overview(graph):
            if self.use_print:
                print(line)
            else:
                self.logger.info("%s", line)
        return PassResult()


def overview(graph: gs.Graph) -> list[str]:
    """The lines of the page."""
    info = header(graph)
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in opset_imports(graph).items())
    operators = Counter(
        f"{node.domain}.{node.op}" if node.domain else node.op for scope in walk_graphs(graph) for node in scope.nodes
    )
    weights = [tensor for scope in walk_graphs(graph) for tensor in scope.tensors().values()]
    weights = [*{id(tensor): tensor for tensor in weights if isinstance(tensor, gs.Constant)}.values()]
    size = sum(stored_bytes(math.prod(tensor.shape), onnx_dtype(tensor) or 0) for tensor in weights)
    return [
        f"producer {info.producer_name or '(none)'} {info.producer_version}".rstrip(),
        f"opset {opsets}",
        f"inputs {len(graph.inputs)}, outputs {len(graph.outputs)}",
        f"weights {size / 1e6:.1f} MB in {len(weights)} tensors",
        f"nodes {operators.total()}",
        *(f"{name} {count}" for name, count in sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
    ]
