"""Quantised embeddings as onnxruntime fuses them, as lookups of integer rows."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.fusion.attention_ops import input_at
from passes.fusion.expand_fused_ops import expand_fused_ops
from passes.operators import CONTRIB
from passes.precision.names import tensor_names, unique_name

#: Of QEmbedLayerNormalization: where the words, positions, segments, gamma and beta are, their scales, zero points.
_TENSORS = range(2, 7), range(8, 13), range(13, 18)


def lift_embeddings(graph: gs.Graph) -> int:
    """Write each QEmbedLayerNormalization as Gathers of integer rows, DequantizeLinear, Add and LayerNormalization.

    Returns:
        How many there were.
    """
    fused = [node for node in graph.nodes if node.op == "QEmbedLayerNormalization" and node.domain == CONTRIB]
    taken = tensor_names(graph)
    tables = {id(table): table for node in fused for table in _dequantised_first(graph, node, taken)}
    if fused:
        expand_fused_ops(graph)
        _look_up_first(graph, tables, taken)
        graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
    return len(fused)


def _dequantised_first(graph: gs.Graph, node: gs.Node, taken: set[str]) -> list[gs.Tensor]:
    """Make an EmbedLayerNormalization of dequantised tables of ``node``; the tables."""
    floats: list[gs.Tensor] = []
    for value, scale, point in zip(*_TENSORS, strict=True):
        levels = input_at(node, value)
        if levels is None:
            floats.append(gs.Variable.empty())
            continue
        name = unique_name(f"{levels.name}_dequantised", taken)
        parameters = [tensor for tensor in (input_at(node, scale), input_at(node, point)) if tensor is not None]
        result = gs.Variable(name, np.float32, list(levels.shape))
        floats.append(add_node(graph.nodes, "DequantizeLinear", name, [levels, *parameters], into=result))
    inputs = [*node.inputs[:2], *floats, input_at(node, 7) or gs.Variable.empty()]
    outputs = list(node.outputs)
    node.outputs.clear()
    attrs = {"epsilon": node.attrs["epsilon"]} if "epsilon" in node.attrs else {}
    graph.nodes.append(gs.Node("EmbedLayerNormalization", node.name, attrs, inputs, outputs, domain=CONTRIB))
    graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
    return floats[:3]


def _look_up_first(graph: gs.Graph, tables: dict[int, gs.Tensor], taken: set[str]) -> None:
    """Dequantise the rows that are looked up and not the whole tables."""
    for node in list(graph.nodes):
        if node.op != "Gather" or id(node.inputs[0]) not in tables:
            continue
        dequantised = node.inputs[0].inputs[0]
        output = node.outputs[0]
        rows = gs.Variable(unique_name(f"{output.name}_rows", taken), dequantised.inputs[0].dtype)
        node.inputs[0], node.outputs[0] = dequantised.inputs[0], rows
        inputs = [rows, *dequantised.inputs[1:]]
        graph.nodes.append(gs.Node("DequantizeLinear", f"{rows.name}_dequantised", {}, inputs, [output]))
