"""ModelProto to onnx-graphsurgeon graph and back, without losing what graphsurgeon does not carry.

graphsurgeon drops the model's and the nodes' ``metadata_props`` and the model's header fields. They travel here on
the graph object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter


@dataclass
class ModelHeader:
    """What a ModelProto says outside its graph.

    Attributes:
        metadata: the model's ``metadata_props``; passes may read and write it.
        node_metadata: the nodes' ``metadata_props``, by the node's name and operator.
    """

    ir_version: int = 8
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    node_metadata: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)


def header(graph: gs.Graph) -> ModelHeader:
    """The header that travels with ``graph``; made on first use for a graph built in code."""
    if not hasattr(graph, "model_header"):
        graph.model_header = ModelHeader()
    return cast(ModelHeader, graph.model_header)


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """Import ``model``. Its tensors stay where they are and are read when a pass asks for their values."""
    graph = gs.import_onnx(model)
    graph.model_header = ModelHeader(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        metadata={prop.key: prop.value for prop in model.metadata_props},
        node_metadata={
            (node.name, node.op_type): {prop.key: prop.value for prop in node.metadata_props}
            for node in model.graph.node
            if node.name and node.metadata_props
        },
    )
    return graph


def export_graph(graph: gs.Graph) -> onnx.ModelProto:
    """Export ``graph`` with the header it was imported with."""
    info = header(graph)
    model = cast(onnx.ModelProto, gs.export_onnx(graph, do_type_check=False))
    model.ir_version = max(info.ir_version, 8)  # 8: the first with model-local functions
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(model, name, getattr(info, name))
    onnx.helper.set_model_props(model, info.metadata)
    for node in model.graph.node:
        for key, value in info.node_metadata.get((node.name, node.op_type), {}).items():
            node.metadata_props.add(key=key, value=value)
    return model


def export_weightless(graph: gs.Graph, largest: int) -> onnx.ModelProto:
    """The graph as a model in which each constant of more than ``largest`` elements is an input instead.

    For tools that look at shapes and would otherwise copy the weights. Weights inside subgraphs stay.
    """
    tensors = graph.tensors()
    large = [t for t in tensors.values() if isinstance(t, gs.Constant) and math.prod(t.shape) > largest]
    small = [t for t in tensors.values() if isinstance(t, gs.Constant) and math.prod(t.shape) <= largest]
    exporter = OnnxExporter()
    proto = onnx.helper.make_graph(
        nodes=[exporter.export_node(node) for node in graph.nodes],
        name=graph.name,
        inputs=[exporter.export_value_info_proto(t, False) for t in [*graph.inputs, *large]],
        outputs=[exporter.export_value_info_proto(t, False) for t in graph.outputs],
        initializer=[exporter.export_tensor_proto(t) for t in small],
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in opset_imports(graph).items()]
    functions = [exporter.export_function(function) for function in graph.functions]
    return onnx.helper.make_model(proto, opset_imports=opsets, functions=functions, ir_version=10)


def opset_imports(graph: gs.Graph) -> dict[str, int]:
    """Domain -> version, for the domains that the graph declares."""
    found = {opset.domain: opset.version for opset in graph.import_domains or ()}
    return {"": graph.opset, **{domain: version for domain, version in found.items() if domain != ""}}
