"""How much work a model is."""

from __future__ import annotations

import logging
from collections import defaultdict

import onnx
import onnx_graphsurgeon as gs

from passes.graph_io import import_graph
from passes.operators import Family, members
from passes.packing.tokens.axes import SEQ, AxisMap
from passes.packing.tokens.flops import node_flops
from passes.shapes.symbolic import infer_symbolic_shapes
from poprt.errors import PoprtError

__all__ = ["get_model_flops"]

_PRODUCTS = members(Family.PRODUCT) | {"Attention", "MultiHeadAttention"}

logger = logging.getLogger("poprt")


def get_model_flops(model: onnx.ModelProto, verbose: bool = False) -> int:
    """Floating-point operations of one run: two for each multiply-add of the main graph's matrix products.

    A product whose size is only known at run time, such as one on the unpacked side of a packed model, is not counted;
    a warning says how many there are.

    Args:
        model: a model whose inputs have fixed shapes.
        verbose: also print the operations of each operator type.

    Raises:
        PoprtError: an input has an open extent; the message names it.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        declared = value.type.tensor_type
        is_known = declared.HasField("shape") and all(dim.dim_value > 0 for dim in declared.shape.dim)
        if value.name not in weights and not is_known:
            raise PoprtError(
                f"input {value.name!r} has an open extent, so the work of a run is not known; fix it first: "
                f"Converter(input_shape={{{value.name!r}: [...]}})"
            )
    graph = import_graph(model)
    axes = AxisMap(graph, infer_symbolic_shapes(graph))
    work: dict[str, int] = defaultdict(int)
    unknown = []
    for node in graph.nodes:
        if node.op in _PRODUCTS:
            flops = _node_work(node, axes)
            work[node.op] += flops
            unknown += [] if flops else [node.name or node.outputs[0].name]
    if unknown:
        logger.warning("%d matrix products of unknown size are not counted, %s among them", len(unknown), unknown[0])
    if verbose:
        _print_work(work)
    return sum(work.values())


def _node_work(node: gs.Node, axes: AxisMap) -> int:
    """The work of one product; 0 where its size is unknown."""
    work = node_flops(node, axes)
    if work.free_symbols == {SEQ}:  # fused attention is counted by the length it attends to
        result, other = axes.shape(node.outputs[0]), axes.shape(node.inputs[1]) if len(node.inputs) > 1 else None
        keys = other if other is not None and len(other) > 2 else result
        work = work.subs(SEQ, keys[-2]) if keys is not None and len(keys) > 2 else work
    return int(work) if work.is_number else 0


def _print_work(work: dict[str, int]) -> None:
    for op, flops in sorted(work.items(), key=lambda item: -item[1]):
        print(f"{op:<20} {flops:>20,} FLOPs")
    print(f"{'total':<20} {sum(work.values()):>20,} FLOPs")
