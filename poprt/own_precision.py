"""In which precision a model computes by itself, whatever it is converted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from passes.node_protos import subgraphs
from passes.operators import MOVES

_HALVES = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}


def own_precision(model: onnx.ModelProto) -> str:
    """ "bf16" or "fp16" where some node computes in that type (bf16 where both are), else "fp32".

    Weights in half precision that are cast before anything computes with them do not count.
    """
    precisions = _computed(model.graph, {})
    for function in model.functions:
        precisions |= _computed_by(function.node, {})
    return "bf16" if "bf16" in precisions else "fp16" if "fp16" in precisions else "fp32"


def _computed(graph: onnx.GraphProto, outer: Mapping[str, str]) -> set[str]:
    halves = dict(outer)
    halves.update(
        (tensor.name, _HALVES[tensor.data_type]) for tensor in graph.initializer if tensor.data_type in _HALVES
    )
    for value in graph.input:
        if value.type.tensor_type.elem_type in _HALVES:
            halves[value.name] = _HALVES[value.type.tensor_type.elem_type]
    return _computed_by(graph.node, halves)


def _computed_by(nodes: Iterable[onnx.NodeProto], halves: dict[str, str]) -> set[str]:
    """The half precisions in which ``nodes`` compute; ``halves``, what is half of their inputs, grows by results."""
    precisions: set[str] = set()
    for node in nodes:
        for graph in subgraphs(node):
            precisions |= _computed(graph, halves)
        kinds = {halves[name] for name in node.input if name in halves}
        if node.op_type == "Cast":
            kinds = {_HALVES[a.i] for a in node.attribute if a.name == "to" and a.i in _HALVES}
            precisions |= kinds  # rounds to it
        elif node.op_type == "Constant":
            kinds = {_HALVES[a.t.data_type] for a in node.attribute if a.name == "value" and a.t.data_type in _HALVES}
        elif node.op_type not in MOVES:
            precisions |= kinds
        if node.op_type in MOVES | {"Cast", "Constant"}:
            halves.update((name, kind) for name in node.output for kind in kinds)
    return precisions
