"""Zeros in the padding that a convolution reads over the end of a sample, as in a run of the sample alone.

    x [n, H, L], kernel 3, pads 1 -> where a token is, x, else 0 [n, H, L] -> the convolution

A front end pads each of its layers with zeros, and what it made of the padding before is none: a bias at the least.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.packing.across_rows.front_end import places_of
from passes.packing.isolation.company import Isolation
from passes.packing.isolation.proof import element_type
from passes.packing.isolation.windows import reaches_over_the_end
from passes.packing.tokens.axes import BATCH, SEQ
from passes.packing.tokens.presence import add_placed, laid_along, token_numbers
from passes.packing.tokens.sides import PlacedGraph
from passes.packing.tokens.subsampling import WHOLE, Subsampling
from passes.refusal import RefusedError
from passes.shapes.symbolic import Dim, Shape

_WINDOWS = ("Conv", "AveragePool", "LpPool")


class WindowPadding:
    """Hides what stands in padding from convolutions that read it.

    Args:
        placed: the graph before it is rewritten; it gets the nodes.
        anchor: an input [batch, seq, ...].
    """

    def __init__(self, placed: PlacedGraph, anchor: gs.Tensor) -> None:
        self._placed, self._axes, self._anchor = placed, placed.axes, anchor
        self._tokens: dict[Dim, gs.Tensor] = {}
        self._cleared: dict[str, gs.Tensor] = {}

    def hide(self, isolation: Isolation) -> int:
        """Put zeros where a window reads padding that is not proved to be zero.

        Returns:
            How many convolutions read other tensors now; the nodes are in topological order.
        """
        reading = [node for node in self._placed.graph.nodes if self._reads_padding(node, isolation)]
        for node in reading:
            node.inputs[0] = self._zeroed(node.inputs[0])
        if reading:
            self._placed.graph.toposort(mode="nodes")
        return len(reading)

    def _reads_padding(self, node: gs.Node, isolation: Isolation) -> bool:
        if node.op not in _WINDOWS or self._placed.runs_packed(node) or not self._is_told(node):
            return False
        places = places_of(self._axes.shape(node.inputs[0]))
        if places is None or places[1] != 0 or places[2] < 2 or not _has_last_token(places[0]):
            return False
        weight: Shape = self._axes.shape(node.inputs[1]) or () if node.op == "Conv" else ()
        try:
            padding = isolation.facts(node.inputs[0]).at(places[2])
        except RefusedError:
            return False
        return reaches_over_the_end(node, places[2], weight) and not padding.is_zero

    def _is_told(self, node: gs.Node) -> bool:
        """Whether all is known of the node's window, and pads count in it as zeros do."""
        kernel = "kernel_shape" in node.attrs or (node.op == "Conv" and self._axes.shape(node.inputs[1]) is not None)
        counts = node.op != "AveragePool" or bool(node.attrs.get("count_include_pad", 0))
        return kernel and counts and not node.attrs.get("ceil_mode", 0) and not self._axes.is_free(node.inputs[0])

    def _zeroed(self, tensor: gs.Tensor) -> gs.Tensor:
        """``tensor`` with zeros in its padding, one for all that read it."""
        if tensor.name not in self._cleared:
            self._cleared[tensor.name] = self._with_zeros(tensor)
        return self._cleared[tensor.name]

    def _with_zeros(self, tensor: gs.Tensor) -> gs.Tensor:
        places, shape = places_of(self._axes.shape(tensor)), self._axes.require_shape(tensor)
        assert places is not None
        subsampling, batch, seq = places
        name = f"{tensor.name}_within_samples"
        there = laid_along(
            self._placed, self._is_token(subsampling, shape[seq]), f"{name}_where", batch, seq, len(shape)
        )
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type(self._axes, tensor)))
        zero = gs.Constant(f"{name}_zero", np.zeros((), dtype))
        self._axes.shapes[zero.name] = ()
        return add_placed(self._placed, "Where", name, [there, tensor, zero], dtype, shape)

    def _is_token(self, subsampling: Subsampling, extent: Dim) -> gs.Tensor:
        """bool [batch, extent]: place j of a sample is there if its token j * stride + (stride - add - 1) is."""
        if extent not in self._tokens:
            name = f"is_token_{len(self._tokens)}"
            self._tokens[extent] = (
                self._presence(name) if subsampling == WHOLE else self._every(name, subsampling, extent)
            )
        return self._tokens[extent]

    def _presence(self, name: str) -> gs.Tensor:
        numbers = token_numbers(self._placed, self._anchor, f"{name}_number")
        return add_placed(self._placed, "Cast", name, [numbers], np.bool_, (BATCH, SEQ), to=onnx.TensorProto.BOOL)

    def _every(self, name: str, subsampling: Subsampling, extent: Dim) -> gs.Tensor:
        first, step = subsampling.stride - subsampling.add - 1, subsampling.stride
        values = {"start": first, "end": np.iinfo(np.int64).max, "axis": 1, "step": step}
        arguments = [gs.Constant(f"{name}_every_{what}", np.array([value])) for what, value in values.items()]
        inputs = [self._is_token(WHOLE, SEQ), *arguments]
        return add_placed(self._placed, "Slice", f"{name}_every_{step}", inputs, np.bool_, (BATCH, extent))


def _has_last_token(subsampling: Subsampling) -> bool:
    """Whether the last token that each place is made of is one of the sample, and no pad."""
    return subsampling.add < subsampling.stride
