"""Put a packed encoder behind the packed front end that feeds it.

    front end [n, L', H] -> Repack -> [1, T', H] -> encoder, which is packed -> answers

T' are the places of all samples: each has as many as the front end leaves of its tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.cleanup.rewiring import replace_uses
from passes.ops import DOMAIN
from passes.packed_model import UNPACK_INFO
from passes.packing.opening.pack_args import PackArgs
from passes.packing.tokens.subsampling import Subsampling

_PREFIX = "encoder_"
#: How the encoder's extents are called beside those of the front end.
_EXTENTS: dict[Any, Any] = {"rows": 1, "columns": "encoder_columns", "longest": "longest_places"}


def join(front: gs.Graph, encoder: gs.Graph, args: PackArgs, subsampling: Subsampling, shared: Collection[str]) -> None:
    """Let ``front`` go on with ``encoder``, in place.

    Args:
        front: packed; its outputs are what it hands over.
        encoder: packed; its inputs are called as the outputs of ``front``, and ``unpack_info``.
        args: the size of a pack of the encoder's places.
        subsampling: what the front end does to the length.
        shared: names of the constants that the model had before it was cut.
    """
    _rename(encoder, front, shared)
    info = next(tensor for tensor in front.inputs if tensor.name == UNPACK_INFO)
    lengths = _lengths(front.nodes, info, subsampling)
    grid = _grid(front.nodes, lengths)
    handed = {tensor.name: tensor for tensor in (*front.outputs, *front.inputs)}
    for tensor in encoder.inputs:
        if tensor.name == UNPACK_INFO:
            replace_uses(tensor, lengths)
        elif tensor.shape and tensor.shape[0] == "rows":
            source = handed[tensor.name]
            source.name, source.shape = f"{tensor.name}_of_samples", None
            sizes = {"segment_max_size": list(args.segment_max_size), "max_valid_num": args.max_valid_num}
            add_node(front.nodes, "Repack", tensor.name, [source, grid, lengths], into=tensor, domain=DOMAIN, **sizes)
        else:
            replace_uses(tensor, handed[tensor.name])
    for node in encoder.nodes:
        for tensor in node.outputs:
            if tensor.shape is not None and tensor not in encoder.outputs:
                tensor.shape = [_EXTENTS.get(extent, extent) for extent in tensor.shape]
    for tensor in encoder.inputs:
        if tensor.inputs:
            tensor.shape = [_EXTENTS.get(extent, extent) for extent in tensor.shape]
    front.nodes.extend(encoder.nodes)
    front.outputs = encoder.outputs
    present = {(function.domain, function.name) for function in front.functions}
    front.functions.extend(item for item in encoder.functions if (item.domain, item.name) not in present)


def _rename(encoder: gs.Graph, front: gs.Graph, shared: Collection[str]) -> None:
    """Names of its own for what both parts have, but for what is handed over; constants of the model are shared."""
    taken, nodes = front.tensors(), {node.name for node in front.nodes}
    kept = {tensor.name for tensor in (*encoder.inputs, *encoder.outputs)}
    for tensor in encoder.tensors().values():
        twin = taken.get(tensor.name)
        if twin is None or tensor.name in kept:
            continue
        if isinstance(tensor, gs.Constant) and isinstance(twin, gs.Constant) and tensor.name in shared:
            replace_uses(tensor, twin)
        else:
            tensor.name = _PREFIX + tensor.name
    for node in encoder.nodes:
        if node.name in nodes:
            node.name = _PREFIX + node.name


def _lengths(nodes: list[gs.Node], info: gs.Tensor, subsampling: Subsampling) -> gs.Tensor:
    """int32 [max_valid_num, 1]: the places of each sample, 0 where there is no sample."""

    def number(name: str, value: int) -> gs.Constant:
        return gs.Constant(f"{_PREFIX}{name}", np.array(value, np.int32))

    zero = number("no_places", 0)
    inputs = [info, number("added_places", subsampling.add)]
    more = add_node(nodes, "Add", f"{_PREFIX}lengths_added", inputs, np.int32)
    some = add_node(nodes, "Max", f"{_PREFIX}lengths_not_negative", [more, zero], np.int32)
    stride = number("stride", subsampling.stride)
    all_places = add_node(nodes, "Div", f"{_PREFIX}lengths_divided", [some, stride], np.int32)
    is_sample = add_node(nodes, "Greater", f"{_PREFIX}is_sample", [info, zero], np.bool_)
    lengths = add_node(nodes, "Where", f"{_PREFIX}lengths", [is_sample, all_places, zero], np.int32)
    lengths.shape = list(info.shape)
    return lengths


def _grid(nodes: list[gs.Node], lengths: gs.Tensor) -> gs.Tensor:
    """float32 [1, T']: Repack reads its extents alone."""
    total = add_node(nodes, "ReduceSum", f"{_PREFIX}places_int32", [lengths], np.int32, keepdims=1)
    wide = add_node(nodes, "Cast", f"{_PREFIX}places", [total], np.int64, to=onnx.TensorProto.INT64)
    shape = gs.Constant(f"{_PREFIX}one_row", np.array([1, 1], np.int64))
    extents = add_node(nodes, "Max", f"{_PREFIX}extents_2d", [wide, shape], np.int64)
    flat = gs.Constant(f"{_PREFIX}flat", np.array([-1], np.int64))
    columns = add_node(nodes, "Reshape", f"{_PREFIX}columns", [extents, flat], np.int64)
    one = gs.Constant(f"{_PREFIX}one", np.array([1], np.int64))
    both = add_node(nodes, "Concat", f"{_PREFIX}extents", [one, columns], np.int64, axis=0)
    return add_node(nodes, "ConstantOfShape", f"{_PREFIX}grid", [both], np.float32)
