"""Lower a packed model to an engine that takes any extent: run the real tokens, unpack to the longest sample present.

The declared shapes say [R, C] tokens and [max_valid_num, segment_max_size] rows. Nothing that the packing pass wrote
depends on them, so the engine's graph takes [1, T] for T real tokens of n samples and unpacks to [n, longest]. The
index tensors that Unpack and Repack need are the same for the whole graph and are computed once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from passes.ops import DOMAIN
from poprt.compiler.packing_spec import read_packing
from poprt.executable import PackingSpec

_PREFIX = "poprt_ragged_"
#: Tensors of the lowered graph, int64; see :data:`_INDEX`.
INDEX, PLACES, WIDTH = (_PREFIX + name for name in ("index", "places", "width"))

#: From the lengths [n, 1]: the width of an unpacked row; `places`, the flat [n * width] places that hold a token, in
#: the order of the stream; and `index` [n, width], for each place its token's number from 1, or 0 where there is none.
_INDEX = """
    axis0 = Constant <value_int = 0> ()
    flat = Constant <value_ints = [-1]> ()
    one = Constant <value_int = 1> ()
    lengths = Cast <to = 7> (unpack_info)
    width = ReduceMax <keepdims = 0> (lengths)
    columns = Range (axis0, width, one)
    occupied = Less (columns, lengths)
    occupied_flat = Reshape (occupied, flat)
    ones = Cast <to = 7> (occupied_flat)
    order = CumSum (ones, axis0)
    numbered = Mul (order, ones)
    grid = Shape (occupied)
    index = Reshape (numbered, grid)
    place_rows = NonZero (occupied_flat)
    places = Reshape (place_rows, flat)
"""


def lower_packing(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PackingSpec | None]:
    """Relax a packed model for an engine that takes any extent. ``model`` is changed in place.

    Returns:
        The model and how it is packed; None for a model that is not. A model with several segments a sample, or one
        whose sequence length was baked in before it was packed, keeps its declared shapes.
    """
    packing = read_packing(model)
    if packing is None or not packing.ragged:
        return model, packing
    graph = model.graph
    shapes = {value.name: value for value in [*graph.value_info, *graph.input, *graph.output]}
    lowered: list[onnx.NodeProto] = list(_index_nodes(model, packing.unpack_info))
    made = _Constants()
    for node in graph.node:
        if node.domain == DOMAIN and node.op_type == "Unpack":
            lowered.extend(_unpack(node, shapes.get(node.output[0]), made))
        elif node.domain == DOMAIN and node.op_type == "Repack":
            lowered.extend(_repack(node, made))
        else:
            lowered.append(node)
    del graph.node[:]
    graph.node.extend(lowered)
    graph.initializer.extend(made.tensors.values())
    _drop_functions(model)
    _relax(model, packing)
    return model, packing


class _Constants:
    """Small initializers, one for equal values."""

    def __init__(self) -> None:
        self.tensors: dict[str, onnx.TensorProto] = {}

    def add(self, key: str, values: np.ndarray[Any, Any]) -> str:
        name = f"{_PREFIX}constant_{key}"
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(values, name)
        return name


def _index_nodes(model: onnx.ModelProto, info: str) -> list[onnx.NodeProto]:
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    text = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]> Index (unpack_info) => (index, places) {{{_INDEX}}}'
    nodes = list(onnx.parser.parse_function(text).node)
    for node in nodes:
        renamed = [info if name == "unpack_info" else _PREFIX + name for name in node.input]
        del node.input[:]
        node.input.extend(renamed)
        node.output[0] = _PREFIX + node.output[0]
        node.name = node.output[0]
    return nodes


def _unpack(node: onnx.NodeProto, output: onnx.ValueInfoProto | None, made: _Constants) -> list[onnx.NodeProto]:
    source, result = node.input[0], node.output[0]
    stream, padded = f"{result}_stream", f"{result}_zero_first"
    rest = _rest(output)
    nodes = []
    if rest is not None and output is not None:
        shape = "x".join(map(str, rest)) or "scalar"
        target = made.add(f"stream_shape_{shape}", np.array([-1, *rest], np.int64))
        dtype = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
        zero = made.add(f"zero_{np.dtype(dtype).name}_{shape}", np.zeros([1, *rest], dtype))
    else:
        flat = made.add("flat", np.array([-1], np.int64))
        one = made.add("one", np.array([1], np.int64))
        target, zero = f"{result}_stream_shape", f"{result}_zero"
        nodes += [
            helper.make_node("Shape", [source], [f"{result}_rest"], start=2),
            helper.make_node("Concat", [flat, f"{result}_rest"], [target], axis=0),
            helper.make_node("Concat", [one, f"{result}_rest"], [f"{result}_zero_shape"], axis=0),
            helper.make_node("ConstantOfShape", [f"{result}_zero_shape"], [f"{result}_zero_float"]),
            helper.make_node("CastLike", [f"{result}_zero_float", source], [zero]),
        ]
    return [
        *nodes,
        helper.make_node("Reshape", [source, target], [stream], stream),
        helper.make_node("Concat", [zero, stream], [padded], padded, axis=0),
        helper.make_node("Gather", [padded, INDEX], [result], node.name, axis=0),
    ]


def _repack(node: onnx.NodeProto, made: _Constants) -> list[onnx.NodeProto]:
    source, result = node.input[0], node.output[0]
    rows, stream, rest = f"{result}_rows", f"{result}_stream", f"{result}_rest"
    flat = made.add("flat", np.array([-1], np.int64))
    row = made.add("first_axis", np.array([0], np.int64))
    return [
        helper.make_node("Shape", [source], [rest], start=2),
        helper.make_node("Concat", [flat, rest], [f"{rows}_shape"], axis=0),
        helper.make_node("Reshape", [source, f"{rows}_shape"], [rows], rows),
        helper.make_node("Gather", [rows, PLACES], [stream], stream, axis=0),
        helper.make_node("Unsqueeze", [stream, row], [result], node.name),
    ]


def _rest(value: onnx.ValueInfoProto | None) -> list[int] | None:
    """The extents after the first two, where they are numbers and the element type is known."""
    if value is None or not value.type.tensor_type.elem_type or not value.type.tensor_type.HasField("shape"):
        return None
    rest = list(value.type.tensor_type.shape.dim)[2:]
    return [dim.dim_value for dim in rest] if all(dim.dim_value > 0 for dim in rest) else None


def _drop_functions(model: onnx.ModelProto) -> None:
    used = {(node.domain, node.op_type) for node in model.graph.node}
    kept = [f for f in model.functions if f.domain != DOMAIN or (f.domain, f.name) in used]
    del model.functions[:]
    model.functions.extend(kept)


def _relax(model: onnx.ModelProto, packing: PackingSpec) -> None:
    """Open the declared extents of inputs and outputs. The tokens come as one row; interior shapes say so as well."""
    for value in model.graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "rows":
                dim.dim_value = 1
    for value in model.graph.input:
        if value.name in packing.dynamic_inputs:
            _open(value, ["", "columns"])
            value.type.tensor_type.shape.dim[0].dim_value = 1
        elif value.name == packing.unpack_info:
            _open(value, ["samples"])
    proved = _extents_without_samples(model)
    for value in model.graph.output:
        kind = packing.outputs.get(value.name)
        if kind == "tokens":
            _open(value, ["samples", "longest"])
        elif kind == "sample":
            value.type.tensor_type.shape.dim[0].dim_param = "samples"
            for number, dim in enumerate(list(value.type.tensor_type.shape.dim)[1:], 1):
                if proved[value.name][number : number + 1] != [dim.dim_value]:
                    dim.dim_param = f"{value.name}_{number}"


def _extents_without_samples(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The extents of the outputs that shape inference finds whatever the samples are; 0 where it finds none.

    A declared extent does not tell whether it is one of the sample's (half its places) or always the same.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    outputs = onnx.shape_inference.infer_shapes(bare).graph.output
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in outputs}


def _open(value: onnx.ValueInfoProto, names: list[str]) -> None:
    for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
        dim.dim_param = name
