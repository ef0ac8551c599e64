"""Initializers are no inputs."""

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.registry import register


@register("remove_initializer_from_input")
class RemoveInitializerFromInput(GraphPass):
    """Takes initializers off the list of graph inputs, where older exporters repeat them.

    Importing a model leaves such inputs out already, so run alone this rewrites the model without counting them; what
    it counts is inputs that an earlier pass made constant. Subgraph inputs are positional and stay.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Keep only the inputs that the caller has to give."""
        result = PassResult()
        inputs = [tensor for tensor in graph.inputs if not isinstance(tensor, gs.Constant)]
        result.count("inputs removed", len(graph.inputs) - len(inputs))
        if len(inputs) != len(graph.inputs):
            graph.inputs = inputs
        return result
