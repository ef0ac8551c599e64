"""Declared types that graphsurgeon cannot hold: optional values, maps, sequences of anything but tensors."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from passes.node_protos import walk_graphs


def carry_types(model: onnx.ModelProto, graph: gs.Graph) -> None:
    """Note such a type on its tensor of ``graph``, made from ``model``; dtype and shape are unknown from then on."""
    declared = {
        item.name: item.type
        for part in walk_graphs(model.graph)
        for item in [*part.input, *part.output, *part.value_info]
        if not _is_plain(item.type)
    }
    if not declared:
        return
    nested = [subgraph for node in graph.nodes for subgraph in node.subgraphs(recursive=True)]
    for part in [graph, *nested]:
        for tensor in [*part.tensors().values(), *part.inputs, *part.outputs]:
            if isinstance(tensor, gs.Variable) and tensor.name in declared:
                tensor.declared_type = onnx.TypeProto.FromString(declared[tensor.name].SerializeToString())
                tensor.dtype, tensor.shape = None, None


def declared_type(tensor: gs.Tensor) -> onnx.TypeProto | None:
    """The type noted on ``tensor``; None for a plain one."""
    return getattr(tensor, "declared_type", None)


def _is_plain(kind: onnx.TypeProto) -> bool:
    form = kind.WhichOneof("value")
    if form == "sequence_type":
        return kind.sequence_type.elem_type.tensor_type.elem_type != onnx.TensorProto.UNDEFINED
    return form in (None, "tensor_type", "sparse_tensor_type")
