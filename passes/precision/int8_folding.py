"""Factors of channels folded into the normalisation before them, where dividing by them costs nothing.

LayerNormalization(x, gamma, beta) / s   =   LayerNormalization(x, gamma / s, beta / s)
(x * gamma + beta) / s                   =   x * (gamma / s) + beta / s
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import graph_output_names
from passes.precision.int8_plan import Plan
from passes.precision.int8_sites import Product
from passes.precision.int8_values import Floats
from passes.precision.names import tensor_names, unique_name
from passes.shapes.dtypes import has_dtype

#: Normalisations of the last axis -> which inputs scale with the result.
_NORMS = {"LayerNormalization": (1, 2), "SimplifiedLayerNormalization": (1,), "RMSNormalization": (1,)}
_DOMAINS = (None, "", "ai.onnx")


def fold_factors(graph: gs.Graph, products: Sequence[Product], plan: Plan) -> int:
    """Fold what ``plan`` divides activations by, where nothing but ``products`` reads them.

    Args:
        graph: of the products, not yet written.
        products: those that will be written in int8.
        plan: its roundings lose the factors that were folded.

    Returns:
        How many activations have theirs folded.
    """
    folding, folded = _Folding(graph), 0
    readers = {id(site.node) for site in products if site.bias is not site.activation}
    for site in products:
        rounding = plan.rounding(site)
        if rounding.factors is not None and folding.fold(site.activation, rounding.factors, readers):
            plan.roundings[site.activation.name] = replace(rounding, factors=None)
            folded += 1
    return folded


class _Folding:
    def __init__(self, graph: gs.Graph) -> None:
        self._taken = tensor_names(graph)
        self._outputs = graph_output_names(graph)

    def fold(self, tensor: gs.Tensor, factors: Floats, readers: Collection[int]) -> bool:
        """Let ``tensor`` be divided where it is made; tell whether that was possible.

        Args:
            tensor: what is divided, [..., channels].
            factors: float32 [channels].
            readers: the ids of the nodes that want it divided; where others read it too, it stays.
        """
        if tensor.name in self._outputs or any(id(reader) not in readers for reader in tensor.outputs):
            return False
        places = self._places(tensor, factors.shape)
        for node, index in places:
            constant = node.inputs[index]
            name = unique_name(f"{constant.name}_balanced", self._taken)
            node.inputs[index] = gs.Constant(name, constant.values / factors)
        return bool(places)

    def _places(self, tensor: gs.Tensor, channels: tuple[int, ...]) -> list[tuple[gs.Node, int]]:
        """The constants to divide, each a node and the number of its input; none where it cannot be done."""
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.domain not in _DOMAINS:
            return []
        if node.op in _NORMS:
            indices = [index for index in _NORMS[node.op] if index < len(node.inputs) and node.inputs[index].name]
            fits = node.attrs.get("axis", -1) == -1 and all(_is_channels(node.inputs[i], channels) for i in indices)
            return [(node, index) for index in indices] if fits else []
        index = _constant_place(node, channels)
        if index is None:
            return []
        if node.op == "Mul":
            return [(node, index)]
        scaled = node.inputs[1 - index]
        if node.op != "Add" or scaled.name in self._outputs or len(scaled.outputs) != 1:
            return []
        scaling = self._places(scaled, channels)
        return [*scaling, (node, index)] if scaling else []


def _constant_place(node: gs.Node, channels: tuple[int, ...]) -> int | None:
    """Which of two inputs is a constant with a value a channel."""
    if len(node.inputs) != 2:
        return None
    return next((index for index, tensor in enumerate(node.inputs) if _is_channels(tensor, channels)), None)


def _is_channels(tensor: gs.Tensor, channels: tuple[int, ...]) -> bool:
    return isinstance(tensor, gs.Constant) and has_dtype(tensor, np.float32) and tuple(tensor.shape) == channels
