"""ModelProto to onnx-graphsurgeon graph and back, without losing what graphsurgeon does not carry.

graphsurgeon drops the model's and the nodes' ``metadata_props`` and the model's header fields. They travel here on
the graph object.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

import passes.ops  # noqa: F401  (registers the schemas: any pass may get a model that holds these operators)
from passes.check.sparse import densify
from passes.check.structure import check_structure
from passes.declared_types import carry_types, declared_type
from passes.errors import RewriteError
from passes.extents import open_unnamed
from passes.node_attributes import export_function, export_node, import_model
from passes.node_protos import subgraphs, walk_graphs
from passes.placeholders import is_placeholder

# It warns of every bfloat16 that it carries as ONNX has it, which is what is wanted.
G_LOGGER.severity = G_LOGGER.ERROR

#: What to write for a constant instead of its values; None for the values.
StandIn: TypeAlias = Callable[[gs.Constant], "onnx.TensorProto | None"]


@dataclass
class ModelHeader:
    """What a ModelProto says outside its graph.

    Attributes:
        metadata: the model's ``metadata_props``; passes may read and write it.
        node_metadata: the nodes' ``metadata_props``, by the node's name and operator.
        initializers: names of the main graph's initializers, which graphsurgeon takes for a subgraph's own where only
            subgraphs read them.
    """

    ir_version: int = 8
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    node_metadata: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    initializers: frozenset[str] = frozenset()


def header(graph: gs.Graph) -> ModelHeader:
    """The header that travels with ``graph``; made on first use for a graph built in code."""
    if not hasattr(graph, "model_header"):
        graph.model_header = ModelHeader()
    return cast(ModelHeader, graph.model_header)


def copy_graph(graph: gs.Graph) -> gs.Graph:
    """A copy of ``graph`` with a header of its own. Weights are shared, not copied."""
    copied = graph.copy()
    for tensor in copied.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.export_dtype == tensor.dtype:
            tensor.export_dtype = None  # a copy is held to the type of today: it follows its values, as the original
    copied.model_header = copy.deepcopy(header(graph))
    return copied


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """Import ``model``. Its tensors stay where they are and are read when a pass asks for their values.

    Sparse initializers become dense ones, in ``model`` too.

    Raises:
        RewriteError: the model is not valid, in a way that no pass could bear.
    """
    check_structure(model)
    densify(model)
    graph = import_model(model)
    carry_types(model, graph)
    _open_unnamed_extents(graph)
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
        initializers=frozenset(tensor.name for tensor in model.graph.initializer),
    )
    return graph


def _hold_strings(graph: gs.Graph) -> None:
    """Hold strings as ONNX does: graphsurgeon writes arrays as raw bytes, which strings are not."""
    for part in _with_subgraphs(graph):
        for tensor in part.tensors().values():
            values = tensor._values if isinstance(tensor, gs.Constant) else None
            if isinstance(values, np.ndarray) and values.dtype.kind in "OUS":
                tensor._values = LazyValues(onnx.numpy_helper.from_array(values.astype(object), tensor.name))


def _with_subgraphs(graph: gs.Graph) -> list[gs.Graph]:
    return [graph, *(nested for node in graph.nodes for nested in node.subgraphs(recursive=True))]


def _open_unnamed_extents(graph: gs.Graph) -> None:
    """Read the marks of exporters for an open extent as one without a name, in subgraphs and local functions too."""
    for part in (part for body in [graph, *graph.functions] for part in _with_subgraphs(body)):
        # a graph's own list of tensors lacks the outputs and inputs that no node touches
        for tensor in [*part.tensors().values(), *part.inputs, *part.outputs]:
            if isinstance(tensor, gs.Variable) and tensor.shape is not None:
                tensor.shape = [open_unnamed(extent) for extent in tensor.shape]


def export_graph(graph: gs.Graph, stand_in: StandIn | None = None) -> onnx.ModelProto:
    """Export ``graph`` with the header it was imported with. Each weight is copied once, straight into the model.

    Args:
        graph: stays as it is.
        stand_in: gives the initializer to write in place of a constant of the main graph, or None to write its own.
    """
    info = header(graph)
    _hold_strings(graph)
    constants = [tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)]
    model = _export(graph, constants=(), extra_inputs=())
    for tensor in constants:
        replaced = stand_in(tensor) if stand_in is not None else None
        if replaced is not None:
            model.graph.initializer.append(replaced)
        elif isinstance(tensor._values, SparseValues):
            model.graph.sparse_initializer.append(OnnxExporter.export_sparse_tensor_proto(tensor))
        else:
            model.graph.initializer.append(OnnxExporter.export_tensor_proto(tensor))
    written = {tensor.name for tensor in constants}
    for nested in list(walk_graphs(model.graph))[1:]:
        for tensor in nested.initializer:
            if tensor.name in info.initializers - written:
                model.graph.initializer.append(tensor)
                written.add(tensor.name)
    _drop_captured(model.graph, written)
    model.ir_version = max(info.ir_version, 8)  # 8: the first with model-local functions
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(model, name, getattr(info, name))
    onnx.helper.set_model_props(model, info.metadata)
    for node in model.graph.node:
        for key, value in info.node_metadata.get((node.name, node.op_type), {}).items():
            node.metadata_props.add(key=key, value=value)
    return model


def export_weightless(graph: gs.Graph, largest: int) -> onnx.ModelProto:
    """The graph as a model in which each constant of more than ``largest`` elements is an input instead, and each whose
    values lie elsewhere.

    For tools that look at shapes and would otherwise copy the weights. Weights inside subgraphs stay.
    """
    _hold_strings(graph)
    constants = [tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)]
    large = [tensor for tensor in constants if math.prod(tensor.shape) > largest or is_placeholder(tensor)]
    names = {tensor.name for tensor in large}
    small = [tensor for tensor in constants if tensor.name not in names]
    model = _export(graph, constants=small, extra_inputs=large)
    del model.graph.value_info[:]
    return model


def signature(graph: gs.Graph) -> onnx.ModelProto:
    """A model with the inputs and the metadata of ``graph`` and nothing else."""
    inputs = [value_info(tensor) for tensor in graph.inputs]
    model: onnx.ModelProto = onnx.helper.make_model(onnx.helper.make_graph([], graph.name or "signature", inputs, []))
    onnx.helper.set_model_props(model, header(graph).metadata)
    return model


def _export(graph: gs.Graph, *, constants: Iterable[gs.Constant], extra_inputs: Iterable[gs.Tensor]) -> onnx.ModelProto:
    """The graph with ``constants`` as its initializers. graphsurgeon's own export copies every weight three times."""
    for part in (subgraph for node in graph.nodes for subgraph in node.subgraphs(recursive=True)):
        for tensor in (*part.tensors().values(), *part.inputs, *part.outputs):
            _check_kind(tensor)
    named = {tensor.name for tensor in [*graph.inputs, *graph.outputs]}
    interior = [
        tensor
        for tensor in graph.tensors().values()
        if isinstance(tensor, gs.Variable) and tensor.name not in named and tensor.dtype is not None
    ]
    model: onnx.ModelProto = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes=[export_node(node) for node in graph.nodes],
            name=graph.name,
            inputs=[value_info(tensor) for tensor in [*graph.inputs, *extra_inputs]],
            outputs=[value_info(tensor) for tensor in graph.outputs],
            initializer=[OnnxExporter.export_tensor_proto(tensor) for tensor in constants],
            doc_string=graph.doc_string,
            value_info=[value_info(tensor) for tensor in interior],
        ),
        opset_imports=[onnx.helper.make_opsetid(*item) for item in opset_imports(graph).items()],
        functions=[export_function(function) for function in graph.functions],
        ir_version=10,
    )
    return model


def value_info(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """What the graph declares of ``tensor``.

    Raises:
        RewriteError: it is of a kind that graphsurgeon does not export.
    """
    carried = declared_type(tensor)
    if carried is not None:
        return onnx.ValueInfoProto(name=tensor.name, type=carried)
    _check_kind(tensor)
    value: onnx.ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, False)
    return value


def _check_kind(tensor: gs.Tensor) -> None:
    plain = ("tensor_type", "sequence_type", "sparse_tensor_type")
    if isinstance(tensor, gs.Variable) and tensor.type not in plain and declared_type(tensor) is None:
        raise RewriteError(f"tensor {tensor.name!r} is of the kind {tensor.type}, which no rewrite can carry")


def _drop_captured(graph: onnx.GraphProto, outer: set[str]) -> None:
    """graphsurgeon repeats in a subgraph the initializers that it captures from outside."""
    for node in graph.node:
        for nested in subgraphs(node):
            kept = [tensor for tensor in nested.initializer if tensor.name not in outer]
            del nested.initializer[:]
            nested.initializer.extend(kept)
            _drop_captured(nested, outer | {tensor.name for tensor in kept})


def opset_imports(graph: gs.Graph) -> dict[str, int]:
    """Domain -> version, for the domains that the graph declares."""
    declared = {opset.domain: opset.version for opset in graph.import_domains or ()}
    return {"": graph.opset, **{domain: version for domain, version in declared.items() if domain != ""}}
