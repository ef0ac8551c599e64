"""Give Squeeze its axes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.graph_io import opset_imports
from passes.precision.names import tensor_names, unique_name
from passes.registry import register
from passes.shapes.baked_shapes import static_shape

_AXES_ARE_AN_INPUT = 13  # the opset from which Squeeze takes its axes as an input


@register("fill_squeeze_axes")
class FillSqueezeAxes(GraphPass):
    """Write out the axes of each Squeeze that has none, where the shape of its input is known: those of extent 1.

    A Squeeze of a tensor with an unknown extent is left alone. Local functions are too: their
    tensors carry no shapes. Covers the main graph and its subgraphs.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Fill in the axes."""
        result, names = PassResult(), tensor_names(graph)
        for scope in walk_graphs(graph, functions=False):
            for node in scope.nodes:
                if node.op != "Squeeze" or node.domain or "axes" in node.attrs or _has_axes_input(node):
                    continue
                shape = static_shape(node.inputs[0])
                if shape is None:
                    result.refuse(node, f"the shape of {node.inputs[0].name!r} is not known")
                    continue
                axes = [axis for axis, extent in enumerate(shape) if extent == 1]
                if opset_imports(graph)[""] < _AXES_ARE_AN_INPUT:
                    node.attrs["axes"] = axes
                else:
                    name = unique_name(f"{node.outputs[0].name}_axes", names)
                    node.inputs = [node.inputs[0], gs.Constant(name, np.array(axes, np.int64))]
                result.count("axes filled in")
        return result


def _has_axes_input(node: gs.Node) -> bool:
    return len(node.inputs) > 1 and bool(node.inputs[1].name)
