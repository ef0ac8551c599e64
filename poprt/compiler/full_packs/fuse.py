"""Attention of full packs in one operator that keeps no scores.

onnxruntime's MultiHeadAttention without a mask never holds the scores [samples, heads, longest, longest]; with one it
does. In a full pack (:mod:`poprt.compiler.full_packs.uniform`) nothing is masked and unpacking moves nothing, so each
attention becomes an If: one operator on the packed tensors where the pack is full, else the nodes that there were.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.building import add_node, import_domain
from passes.operators import CONTRIB
from poprt.compiler.full_packs.attention import Attention, AttentionFinder, Form, Tokens
from poprt.compiler.full_packs.branches import Branches
from poprt.compiler.full_packs.uniform import FullPackValues
from poprt.compiler.ragged import GRID, LENGTHS, WIDTH
from poprt.executable import PackingSpec

_PREFIX, _PACK = "poprt_full_", "pack"


class FuseFullPacks(GraphPass):
    """Gives each attention whose mask only hides padding a branch for full packs.

    Leaves alone what is not fused in float32, and attention whose weights something else reads.

    Args:
        packing: how the model is packed; only a ragged one has packs without padding.
    """

    name = "fuse_full_packs"

    def __init__(self, packing: PackingSpec) -> None:
        super().__init__()
        self._packing = packing

    def apply(self, graph: gs.Graph) -> PassResult:
        """Fuse, in place."""
        result = PassResult()
        tensors = graph.tensors()
        if not self._packing.ragged or not {GRID, LENGTHS, WIDTH} <= tensors.keys() or _PREFIX + _PACK in tensors:
            return result
        mask = tensors.get(self._packing.mask)
        finder = AttentionFinder(graph, FullPackValues(graph, mask))
        attentions = [attention for node in graph.nodes if (attention := finder.find(node)) is not None]
        if not attentions:
            return result
        condition, extents = _measured(graph, mask)
        branches = Branches(graph, condition)
        for attention in attentions:
            result.count("attentions fused for full packs", _fuse(attention, extents, branches))
        branches.move_shared()
        if result.modified:
            import_domain(graph, CONTRIB, 1)
        return result


def with_full_packs(packing: PackingSpec, model: onnx.ModelProto) -> PackingSpec:
    """What the manifest of a model that was fused says of full packs.

    An attention that was left alone keeps its scores in every pack, and an input of pairs is there in every pack.
    """
    kept = bool(packing.pair_inputs) or any(
        node.op_type == "Softmax" or node.op_type.endswith("Attention") for node in model.graph.node
    )
    return replace(packing, equal_lengths_cheaper=True, full_pair_bytes=packing.pair_bytes if kept else 0)


def _fuse(attention: Attention, extents: gs.Tensor, branches: Branches) -> bool:
    sources = [tokens.tensor for tokens in attention.tokens]
    attention.result.dtype = attention.result.dtype or np.float32
    return branches.instead(attention.result, sources, attention.scores, _fused(attention, extents))


def _measured(graph: gs.Graph, mask: gs.Tensor | None) -> tuple[gs.Tensor, gs.Tensor]:
    """Whether the pack is full, and [samples, longest, -1], the shape of its tokens; both computed once."""
    nodes: list[gs.Node] = []
    tensors = graph.tensors()

    def add(op: str, name: str, inputs: list[gs.Tensor], dtype: Any, **attributes: Any) -> gs.Tensor:
        return add_node(nodes, op, _PREFIX + name, inputs, dtype, **attributes)

    shortest = add("ReduceMin", "shortest", [tensors[LENGTHS]], np.int64, keepdims=0)
    if mask is None:
        condition = add("Equal", _PACK, [shortest, tensors[WIDTH]], np.bool_)
    else:
        equal = add("Equal", "equal_lengths", [shortest, tensors[WIDTH]], np.bool_)
        condition = add("And", _PACK, [equal, _unmasked(nodes, mask)], np.bool_)
    rest = gs.Constant(f"{_PREFIX}rest", np.array([-1], np.int64))
    extents = add("Concat", "extents", [tensors[GRID], rest], np.int64, axis=0)
    graph.nodes.extend(nodes)
    _put_first(graph, nodes)
    return condition, extents


def _unmasked(nodes: list[gs.Node], mask: gs.Tensor) -> gs.Tensor:
    """Whether the mask is 1 at every token."""
    one = gs.Constant(f"{_PREFIX}one", np.ones((), mask.dtype))
    ones = add_node(nodes, "Equal", f"{_PREFIX}mask_is_one", [mask, one], np.bool_)
    number = add_node(nodes, "Cast", f"{_PREFIX}mask_number", [ones], np.int32, to=int(onnx.TensorProto.INT32))
    least = add_node(nodes, "ReduceMin", f"{_PREFIX}mask_least", [number], np.int32, keepdims=0)
    return add_node(nodes, "Cast", f"{_PREFIX}nothing_masked", [least], np.bool_, to=int(onnx.TensorProto.BOOL))


def _put_first(graph: gs.Graph, nodes: list[gs.Node]) -> None:
    """Sort the graph so that ``nodes``, and what they need, stand before all others."""
    graph.toposort(mode="nodes")
    needed = {id(node) for node in nodes}
    for node in reversed(graph.nodes):
        if id(node) in needed:
            needed |= {id(maker) for tensor in node.inputs for maker in tensor.inputs}
    graph.nodes.sort(key=lambda node: id(node) not in needed)


def _fused(attention: Attention, extents: gs.Tensor) -> list[gs.Node]:
    """The nodes that make the result of ``attention`` in a full pack."""
    nodes: list[gs.Node] = []
    name = f"{_PREFIX}{attention.result.name}"
    parts = zip("qkv", attention.tokens, strict=True)
    rows = [_rows(nodes, f"{name}_{part}", tokens, extents) for part, tokens in parts]
    sizes = {"num_heads": attention.heads, "scale": attention.scale}
    context = add_node(nodes, "MultiHeadAttention", f"{name}_context", rows, domain=CONTRIB, **sizes)
    lead = [1, -1] if attention.form is Form.PACKED else [0, 0]
    target = gs.Constant(f"{name}_shape", np.array([*lead, attention.heads, attention.size], np.int64))
    places = add_node(nodes, "Reshape", f"{name}_places", [context, target], np.float32)
    if attention.form is Form.HEADS:
        add_node(nodes, "Transpose", f"{name}_heads", [places], np.float32, perm=[0, 2, 1, 3])
    return nodes


def _rows(nodes: list[gs.Node], name: str, tokens: Tokens, extents: gs.Tensor) -> gs.Tensor:
    """[samples, longest, heads * size] of query, key or value."""
    tensor = tokens.tensor
    if not tokens.packed:
        tensor = add_node(nodes, "Transpose", f"{name}_heads", [tensor], perm=[0, 2, 1, 3])
    return add_node(nodes, "Reshape", name, [tensor, extents])
