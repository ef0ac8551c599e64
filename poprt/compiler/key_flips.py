"""Keys that are flipped in three dimensions: one flip of the last two axes, which the engine does within its product.

Exporters spell scaled_dot_product_attention so: the keys [B, N, S, D] are reshaped to [B * N, S, D], transposed to
[B * N, D, S] and reshaped to [B, N, D, S]. The engine does not see through the reshapes and copies the keys.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from poprt.compiler.reshapes import Entry, entries, maker, only_reader

_FLIP = [0, 1, 3, 2]


class FlipKeys(GraphPass):
    """Replaces Reshape, Transpose and Reshape by one Transpose, wherever their targets prove it."""

    name = "flip_keys"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Flip, in place."""
        result = PassResult()
        for node in [node for node in graph.nodes if node.op == "Transpose" and node.attrs.get("perm") == [0, 2, 1]]:
            result.count("keys flipped in place", _flip(node, graph))
        if result.modified:
            graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
        return result


def _flip(transpose: gs.Node, graph: gs.Graph) -> bool:
    first, last = maker(transpose), only_reader(transpose, graph)
    if first is None or last is None or first.op != "Reshape" or last.op != "Reshape":
        return False
    if last.inputs[0] is not transpose.outputs[0] or only_reader(first, graph) is not transpose:
        return False
    before = _extents(first) or _declared_extents(first, last)
    if not _is_flip(before, entries(first.inputs[1]), entries(last.inputs[1])):
        return False
    output = last.outputs[0]
    last.outputs.clear()
    graph.nodes.append(gs.Node("Transpose", last.name, {"perm": _FLIP}, [first.inputs[0]], [output]))
    return True


def _extents(reader: gs.Node) -> list[Entry]:
    """What the input of ``reader``, of four axes, was reshaped to, its axes in their present order."""
    source = maker(reader)
    if source is not None and source.op == "Transpose" and len(source.attrs.get("perm", [])) == 4:
        reshape = maker(source)
        target = entries(reshape.inputs[1]) if reshape is not None and reshape.op == "Reshape" else []
        return [target[axis] for axis in source.attrs["perm"]] if len(target) == 4 else []
    if source is not None and source.op == "Reshape" and len(reader.inputs[0].shape or []) == 4:
        return entries(source.inputs[1])
    return []


def _declared_extents(first: gs.Node, last: gs.Node) -> list[Entry]:
    """What ``last`` makes, its last axes swapped, where the declared shapes say that ``first`` gets just that.

    Keys that were rotated come from no reshape.
    """
    before, after = list(first.inputs[0].shape or []), list(last.outputs[0].shape or [])
    target = entries(last.inputs[1])
    if [len(before), len(after), len(target)] != [4, 4, 4] or not all(before):  # an extent without a name is any
        return []
    if [before[axis] for axis in _FLIP] != after:
        return []
    return [target[axis] for axis in _FLIP]


def _is_flip(before: list[Entry], folded: list[Entry], after: list[Entry]) -> bool:
    """Whether [B, N, S, D] becomes [any, S, D] and, transposed, [B, N, D, S].

    N and D are numbers, so B and S are one extent each. One of ``before`` may be open: where the others are those of
    ``after``, so is that one.
    """
    if [len(before), len(folded), len(after)] != [4, 3, 4] or 0 in [*before, *folded, *after] or -1 in after:
        return False
    batch, heads, size, length = after
    unflipped = [batch, heads, length, size]
    return (
        folded == [-1, length, size]
        and isinstance(heads, int)
        and isinstance(size, int)
        and all(entry in (-1, extent) for entry, extent in zip(before, unflipped, strict=True))
    )
