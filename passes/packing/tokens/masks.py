"""Which input keeps attention away from padding.

Samples of different lengths meet in one batch on the unpacked side, so the model must mask what is not a sample's
own. The mask is found by following each input: embeddings and positions enter through a table lookup; an input that
reaches a node that mixes tokens in any other way decides what that node sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.cleanup.rewiring import replace_uses
from passes.fusion.attention_ops import attention_inputs, inputs_at
from passes.lookups import is_lookup
from passes.operators import KEEPS_VALUES, Family, members
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.sides import PlacedGraph

_POSITION_OPS = members(Family.EXTENT) | {"CumSum", "Range", "ConstantOfShape"}


@dataclass(frozen=True)
class MaskInputs:
    """The inputs that mask.

    Attributes:
        explicit: inputs that serve as a mask alone.
        derived: inputs from which a mask is computed although they are looked up in a table too (token ids).
    """

    explicit: tuple[str, ...]
    derived: tuple[str, ...]


def find_masks(placed: PlacedGraph, inputs: Sequence[gs.Tensor]) -> MaskInputs:
    """Follow each of ``inputs`` to the nodes that mix tokens."""
    explicit: list[str] = []
    derived: list[str] = []
    called_so: list[str] = []
    for tensor in inputs:
        reaches, looked_up = _follow(placed, tensor)
        if reaches:
            (derived if looked_up else explicit).append(tensor.name)
        elif not looked_up and "mask" in tensor.name:
            called_so.append(tensor.name)
    # A mask that tokens are multiplied by before a convolution or a running sum shows by its name alone.
    explicit = explicit or called_so[:1]
    return MaskInputs(tuple(explicit), tuple(derived))


def _follow(placed: PlacedGraph, start: gs.Tensor) -> tuple[bool, bool]:
    """Whether ``start`` reaches a node that mixes tokens other than through a table, and whether a table reads it."""
    tainted = {start.name}
    same_value = {start.name}
    reaches = looked_up = False
    for node in placed.graph.nodes:
        read = [tensor for tensor in node.inputs if tensor.name in tainted]
        if not read or node.op in _POSITION_OPS:
            continue
        if is_lookup(node) and placed.axes.is_free(node.inputs[0]) and node.inputs[1].name in tainted:
            # Token ids index a table as they are; a mask may at most be counted into positions.
            looked_up = looked_up or node.inputs[1].name in same_value
            continue
        if id(node) in placed.placement.reasons and _reaches(node, tainted, placed.axes):
            reaches = True
        tainted.update(tensor.name for tensor in node.outputs)
        if node.op in KEEPS_VALUES and node.inputs[0].name in same_value:
            same_value.update(tensor.name for tensor in node.outputs)
    return reaches, looked_up


def _reaches(node: gs.Node, tainted: set[str], axes: AxisMap) -> bool:
    """Whether what is followed decides what ``node`` sees of other tokens."""
    attention = attention_inputs(node)
    if attention is None:
        return _mixes(node, axes)
    return any(tensor.name in tainted for tensor in inputs_at(node, attention.masks))


def _mixes(node: gs.Node, axes: AxisMap) -> bool:
    """Whether the node's result has two sequence axes or none: it relates places, or sums over them."""
    return any(axes.axes(tensor) is None for tensor in node.outputs)


def binarise(graph: gs.Graph, mask: gs.Variable, *, numbered: bool = False) -> None:
    """Bring a mask to 0 and 1 for all that reads it.

    An offline mask may number the samples 1..n, and ``(1 - mask) * -10000`` would overflow. Where it is ``numbered``,
    a place that its own sample masks has the sample's number with a minus: the sample owns it, and nobody looks at it.
    A mask of floats that is not numbered may say more than yes and no, and stays.
    """
    if not numbered and not np.issubdtype(mask.dtype, np.integer):
        return
    truth = gs.Variable(f"{mask.name}_truth", np.bool_, mask.shape)
    binary = gs.Variable(f"{mask.name}_binary", mask.dtype, mask.shape)
    replace_uses(mask, binary)
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(mask.dtype))
    if numbered:
        zero = gs.Constant(f"{mask.name}_zero", np.zeros((), mask.dtype))
        add_node(graph.nodes, "Greater", truth.name, [mask, zero], into=truth)
    else:
        add_node(graph.nodes, "Cast", truth.name, [mask], into=truth, to=onnx.TensorProto.BOOL)
    add_node(graph.nodes, "Cast", binary.name, [truth], into=binary, to=to)
