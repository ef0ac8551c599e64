"""What a graph shows of packing that a script wrote into it by hand, where the model says nothing of it."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from passes.operators import KEEPS_VALUES
from passes.ops import DOMAIN
from poprt.executable import PackOperators

#: What may stand between the mask input and AttentionMask: it shapes numbers and casts them.
_CARRIERS = KEEPS_VALUES | {"Expand"}


def pack_operators(model: onnx.ModelProto) -> PackOperators | None:
    """The operators of packing in the main graph; None where there is none."""
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    masks = [node for node in nodes if node.op_type == "AttentionMask"]
    unpacks = [node for node in nodes if node.op_type == "Unpack"]
    repacks = [node for node in nodes if node.op_type == "Repack"]
    if not masks and not unpacks:
        return None
    sizes: list[tuple[int, ...]] = [tuple(_attribute(node, "segment_max_size", ())) for node in unpacks]
    most: list[int] = [_attribute(node, "max_valid_num", 0) for node in unpacks]
    return PackOperators(
        apart_in_rows=bool(masks),
        masks=_inputs_behind(model.graph, [node.input[0] for node in masks]),
        lengths=_inputs_behind(model.graph, [node.input[-1] for node in (*unpacks, *repacks)]),
        max_valid_num=max(most, default=0),
        segment_max_size=max(sizes, default=()),
        unpacked=_unpacked_outputs(model.graph),
    )


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def _inputs_behind(graph: onnx.GraphProto, names: list[str]) -> tuple[str, ...]:
    """The graph's inputs that the tensors ``names`` carry, in their order; those that are computed are left out."""
    inputs = {value.name for value in graph.input}
    producers = {output: node for node in graph.node for output in node.output}
    behind: dict[str, None] = {}
    for name in names:
        while name in producers and producers[name].op_type in _CARRIERS:
            name = producers[name].input[0]
        if name in inputs:
            behind[name] = None
    return tuple(behind)


def _unpacked_outputs(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The outputs behind an Unpack and no Repack: they have a row a sample."""
    unpacked: set[str] = set()
    for node in graph.node:  # sorted, as onnx has it
        ours = node.op_type if node.domain == DOMAIN else ""
        if ours == "Unpack" or (ours != "Repack" and unpacked.intersection(node.input)):
            unpacked.update(node.output)
    return tuple(value.name for value in graph.output if value.name in unpacked)
