"""Pooling, dense layers and normalisation at the end of a graph that lacks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from passes import PassManager, get_pass
from passes.node_protos import opset_of
from passes.operators import Family, members
from poprt.text.folder.building import Nodes
from poprt.text.folder.dense import add_dense
from poprt.text.folder.files import ModelFolder
from poprt.text.folder.graph import Output, inputs_of
from poprt.text.folder.modules import Head
from poprt.text.folder.pooling import Pooler

#: The output of a graph that pools.
EMBEDDING_OUTPUT = "sentence_embedding"
_MASK = "attention_mask"
#: The oldest opset in which the nodes of a head are written.
_LEAST_OPSET = 13
#: What torch's ``normalize`` divides by at least.
_SMALLEST_LENGTH = 1e-12
#: What exporters put between a vector's length and the division by it.
_ON_THE_WAY = members(Family.CLAMP, Family.REPEAT, Family.ORDER, Family.CONVERSION)


def keep_outputs(model: onnx.ModelProto, outputs: Sequence[Output], widths: Sequence[int]) -> None:
    """Leave these outputs alone, in this order, and declare the extent of their last axis where it is open."""
    by_name = {value.name: value for value in model.graph.output}
    kept = [by_name[output.name] for output in outputs]
    for value, output, width in zip(kept, outputs, widths, strict=True):
        if output.rank and width and not output.width:
            dim = value.type.tensor_type.shape.dim[-1]
            dim.Clear()
            dim.dim_value = width
    del model.graph.output[:]
    model.graph.output.extend(kept)


def add_head(model: onnx.ModelProto, vectors: Output, head: Head, width: int, folder: ModelFolder) -> onnx.ModelProto:
    """The model with the head behind its token vectors, and the embedding as the only output.

    Args:
        model: it may be changed.
        vectors: the output with the token vectors, floats [batch, sequence, width].
        head: what to add.
        width: its last extent.
        folder: holds the weights of dense layers.

    Raises:
        PoprtError: a dense layer cannot be read.
    """
    model = at_opset(model)
    nodes = Nodes(model)
    hidden = vectors.name if vectors.element == TensorProto.FLOAT else nodes.add("Cast", [vectors.name], to=1)
    pooler = Pooler(nodes, hidden, nodes.add("Cast", [_mask(model)], to=1))
    pooled = [pooler.pool(way) for way in head.poolings]
    width *= len(pooled)
    result = pooled[0] if len(pooled) == 1 else nodes.add("Concat", pooled, axis=1)
    for path in head.dense:
        result, width = add_dense(nodes, result, path, folder)
    if head.normalise:
        result = _normalised(nodes, result)
    _set_output(model, nodes, result, width)
    return model


def normalise(model: onnx.ModelProto, embedding: Output) -> onnx.ModelProto:
    """The model with its embedding [batch, n] brought to length 1; unchanged where the graph ends so already."""
    if _ends_in_norm(model, embedding.name):
        return model
    width = embedding.width
    model = at_opset(model)
    nodes = Nodes(model)
    vector = embedding.name if embedding.element == TensorProto.FLOAT else nodes.add("Cast", [embedding.name], to=1)
    _set_output(model, nodes, _normalised(nodes, vector), width)
    return model


def at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset in which a head can be written."""
    if opset_of(model) >= _LEAST_OPSET:
        return model
    return PassManager([get_pass("convert_opset", target=_LEAST_OPSET)]).run(model)


def _mask(model: onnx.ModelProto) -> str:
    """The mask's input. A model that needs none gets one for its pooling."""
    inputs = inputs_of(model)
    if all(value.name != _MASK for value in inputs):
        mask = onnx.ValueInfoProto()
        mask.CopyFrom(next(value for value in inputs if value.name == "input_ids"))
        mask.name = _MASK
        model.graph.input.append(mask)
    return _MASK


def _normalised(nodes: Nodes, vector: str) -> str:
    squares = nodes.add("Mul", [vector, vector])
    length = nodes.add("Sqrt", [nodes.reduce("ReduceSum", squares, keep=True)])
    return nodes.add("Div", [vector, nodes.add("Max", [length, nodes.floats(_SMALLEST_LENGTH)])])


def _set_output(model: onnx.ModelProto, nodes: Nodes, result: str, width: int) -> None:
    taken = {name for node in model.graph.node for name in node.output}
    name = EMBEDDING_OUTPUT if EMBEDDING_OUTPUT not in taken else nodes.name(EMBEDDING_OUTPUT)
    model.graph.node.append(helper.make_node("Identity", [result], [name], f"{name}_output"))
    batch = next(value for value in model.graph.input if value.name == "input_ids").type.tensor_type.shape.dim
    rows = batch[0].dim_param or "batch" if batch else "batch"
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, width or None])
    if batch and batch[0].dim_value:
        value.type.tensor_type.shape.dim[0].dim_value = batch[0].dim_value
    del model.graph.output[:]
    model.graph.output.append(value)


def _ends_in_norm(model: onnx.ModelProto, output: str) -> bool:
    """Whether an output is a vector over its own length, as exporters spell it. Where not, it is divided once more."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = producers.get(node.input[0])
    if node is None or node.op_type not in ("Div", "LpNormalization"):
        return False
    if node.op_type == "LpNormalization":
        return True
    divisor = producers.get(node.input[1])
    while divisor is not None and divisor.op_type in _ON_THE_WAY:
        divisor = producers.get(divisor.input[0])
    if divisor is None or divisor.op_type != "Sqrt":
        return divisor is not None and divisor.op_type == "ReduceL2"
    return _sums_squares(producers.get(divisor.input[0]), producers)


def _sums_squares(node: onnx.NodeProto | None, producers: Mapping[str, onnx.NodeProto]) -> bool:
    if node is None or node.op_type != "ReduceSum":
        return node is not None and node.op_type == "ReduceSumSquare"
    squares = producers.get(node.input[0])
    if squares is None:
        return False
    return squares.op_type == "Pow" or (squares.op_type == "Mul" and squares.input[0] == squares.input[1])
