"""Mend what a model may say wrongly and the engine would refuse."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

import onnx
from onnx import helper

from passes.operators import Family, members
from poprt.compiler.walk import subgraphs, walk_graphs, walk_nodes

Proto = TypeVar("Proto", onnx.ModelProto, onnx.NodeProto, onnx.ValueInfoProto)

logger = logging.getLogger("poprt")

#: Before opset 14 these take none of the narrow integers, though their arithmetic is plain.
_ARITHMETIC = members(Family.ARITHMETIC)
_ARITHMETIC_FIXED_IN = 14
_NARROW = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16})


def keep_outputs(model: onnx.ModelProto, names: list[str]) -> None:
    """Reduce the main graph to ``names``, in that order, dropping nodes and initializers that none of them needs."""
    graph = model.graph
    declared = {item.name: item for item in graph.output}
    chosen = [_copy(declared[name]) for name in names]
    del graph.output[:]
    graph.output.extend(chosen)
    needed = set(names)
    alive = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            alive.append(node)
            needed.update(_reads(node))
    if len(alive) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(alive)]
        del graph.node[:]
        graph.node.extend(nodes)
    drop_unread_initializers(model)


def drop_unread_initializers(model: onnx.ModelProto) -> None:
    """Drop the main graph's initializers that no node reads and no output names."""
    graph = model.graph
    read = {name for node in graph.node for name in _reads(node)} | {item.name for item in graph.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]


def name_nodes(model: onnx.ModelProto) -> None:
    """Give nodes of the main graph that have no name one, so that the engine's errors can name them."""
    for node in model.graph.node:
        if not node.name and node.output:
            node.name = f"{node.op_type}:{node.output[0]}"


def mend_types(model: onnx.ModelProto) -> None:
    """Infer the types and shapes of outputs again, and correct those declared otherwise. Warns of each."""
    inferred = _inferred(model)
    for item in model.graph.output:
        held = inferred.get(item.name)
        if held is None or not item.type.HasField("tensor_type"):
            continue
        declared = item.type.tensor_type
        if held.elem_type and held.elem_type != declared.elem_type:
            logger.warning(
                "output %r is declared %s but computed as %s; the executable gives the latter",
                item.name,
                onnx.TensorProto.DataType.Name(declared.elem_type),
                onnx.TensorProto.DataType.Name(held.elem_type),
            )
            declared.elem_type = held.elem_type
        if _contradicts(declared, held):
            logger.warning("output %r has another shape than declared; the declaration is corrected", item.name)
            declared.shape.CopyFrom(held.shape)
    _mend_value_info(model, inferred)


def cast_around_narrow_arithmetic(model: onnx.ModelProto) -> None:
    """Compute 8- and 16-bit Add, Sub, Mul and Div in int32 where the opset has them for wide integers only.

    Casting back keeps the low bits, as the narrow operator would.
    """
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if version >= _ARITHMETIC_FIXED_IN or not any(_is_arithmetic(node) for node in walk_nodes(model.graph.node)):
        return
    types = {name: held.elem_type for name, held in _inferred(model).items()}
    for graph in walk_graphs(model.graph):
        types.update(_declared_types(graph))
        nodes = [made for node in graph.node for made in _in_int32(node, types)]
        del graph.node[:]
        graph.node.extend(nodes)


def _is_arithmetic(node: onnx.NodeProto) -> bool:
    return node.op_type in _ARITHMETIC and node.domain in ("", "ai.onnx")


def _in_int32(node: onnx.NodeProto, types: dict[str, int]) -> list[onnx.NodeProto]:
    node = _copy(node)
    kind = next((types[name] for name in [*node.input, *node.output] if name in types), 0)
    if not _is_arithmetic(node) or kind not in _NARROW:
        return [node]
    label, result = node.name or node.output[0], node.output[0]
    casts = []
    for index, name in enumerate(node.input):
        wide = f"{result}:wide{index}"
        casts.append(helper.make_node("Cast", [name], [wide], name=f"{label}:widen{index}", to=onnx.TensorProto.INT32))
        node.input[index] = wide
    node.output[0] = f"{result}:wide"
    back = helper.make_node("Cast", [node.output[0]], [result], name=f"{label}:narrow", to=kind)
    return [*casts, node, back]


def _declared_types(graph: onnx.GraphProto) -> dict[str, int]:
    values = [*graph.input, *graph.value_info, *graph.output]
    return {
        **{item.name: item.type.tensor_type.elem_type for item in values if item.type.tensor_type.elem_type},
        **{tensor.name: tensor.data_type for tensor in graph.initializer},
    }


def _inferred(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """What inference says of each tensor, blind to the types that the model declares for what it computes."""
    blind = _copy(model)
    del blind.graph.value_info[:]
    for item in blind.graph.output:
        item.ClearField("type")
    try:
        graph = onnx.shape_inference.infer_shapes(blind).graph
    except onnx.shape_inference.InferenceError as error:
        logger.debug("no types inferred, the engine will say what is wrong: %s", error)
        return {}
    values = [*graph.input, *graph.value_info, *graph.output]
    return {item.name: item.type.tensor_type for item in values if item.type.HasField("tensor_type")}


def _contradicts(declared: onnx.TypeProto.Tensor, held: onnx.TypeProto.Tensor) -> bool:
    if not (declared.HasField("shape") and held.HasField("shape")):
        return False
    ours, theirs = declared.shape.dim, held.shape.dim
    pairs = zip(ours, theirs, strict=False)
    return len(ours) != len(theirs) or any(a.dim_value and b.dim_value and a.dim_value != b.dim_value for a, b in pairs)


def _mend_value_info(model: onnx.ModelProto, inferred: dict[str, onnx.TypeProto.Tensor]) -> None:
    for item in model.graph.value_info:
        held = inferred.get(item.name)
        if held is not None and held.elem_type and item.type.HasField("tensor_type"):
            item.type.tensor_type.elem_type = held.elem_type


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads, in its subgraphs too (names defined in there included, which does no harm)."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        yield from (item.name for item in graph.output)
        for inner in graph.node:
            yield from _reads(inner)


def _copy(message: Proto) -> Proto:
    made = type(message)()
    made.CopyFrom(message)
    return made
