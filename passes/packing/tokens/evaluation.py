"""Run a few nodes of a graph to learn what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from passes.graph_io import opset_imports
from passes.node_attributes import export_node
from passes.reference_session import reference_session


def evaluate(
    graph: gs.Graph,
    nodes: Sequence[gs.Node],
    name: str,
    element: int,
    values: Mapping[str, np.ndarray[Any, Any]],
) -> np.ndarray[Any, Any]:
    """The tensor ``name``, computed by onnxruntime with its optimiser off.

    Args:
        graph: whose operator versions hold.
        nodes: all that it takes, in topological order.
        element: the tensor's ONNX element type.
        values: values of the tensors at which the nodes begin, constants excepted.
    """
    exporter = OnnxExporter()
    constants = {tensor.name: tensor for node in nodes for tensor in node.inputs if isinstance(tensor, gs.Constant)}
    weights = [exporter.export_tensor_proto(constant) for constant in constants.values()]
    weights += [onnx.numpy_helper.from_array(value, start) for start, value in values.items()]
    result = onnx.helper.make_tensor_value_info(name, element, None)
    part = onnx.helper.make_graph([export_node(node) for node in nodes], "part", [], [result], weights)
    opsets = [onnx.helper.make_opsetid(*item) for item in opset_imports(graph).items()]
    model = onnx.helper.make_model(part, opset_imports=opsets, ir_version=8)
    return np.asarray(reference_session(model, threads=1).run(None, {})[0])
