"""Lower a packed model to an engine that takes any extent: run the real tokens, unpack to the longest sample present.

The declared shapes say [R, C] tokens and [max_valid_num, segment_max_size] rows. Nothing that the packing pass wrote
depends on them, so the engine's graph takes [1, T] for T real tokens of n samples and unpacks to [n, longest]. The
index tensors that Unpack and Repack need are the same for the whole graph and are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.rewiring import onnx_dtype, replace_uses
from passes.ops import DOMAIN
from poprt.compiler.inference import extents_of, inferred_types
from poprt.executable import PackingSpec

_PREFIX = "poprt_ragged_"
#: The same in a front end that changes the length; those of the encoder behind it have the names below.
_FRONT = "poprt_ragged_front_"
#: Tensors of the lowered graph, int64; see :data:`_INDEX`.
INDEX, PLACES, WIDTH, LENGTHS, GRID = (_PREFIX + name for name in ("index", "places", "width", "lengths", "grid"))

#: From the lengths [n, 1]: the width of an unpacked row; `places`, the flat [n * width] places that hold a token, in
#: the order of the stream; and `index` [n, width], for each place its token's number from 1, or 0 where there is none.
_INDEX = """
    axis0 = Constant <value_int = 0> ()
    flat = Constant <value_ints = [-1]> ()
    one = Constant <value_int = 1> ()
    lengths = Cast <to = 7> (unpack_info)
    %s
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


#: The width is the longest sample, or where that pays more (``PackingSpec.unpacked_width``).
_LONGEST = "width = ReduceMax <keepdims = 0> (lengths)"
_RAISED = """longest = ReduceMax <keepdims = 0> (lengths)
    multiple = Constant <value_int = {multiple}> ()
    half = Constant <value_int = {half}> ()
    most = Constant <value_int = {most}> ()
    halfway = Add (longest, half)
    multiples = Div (halfway, multiple)
    nearest = Mul (multiples, multiple)
    bounded = Min (nearest, most)
    width = Max (longest, bounded)"""


class LowerPacking(GraphPass):
    """Relaxes a packed model for an engine that takes any extent.

    A model with several segments a sample, or one whose sequence length was baked in before it was packed, keeps its
    declared shapes, as does one that is not packed.

    Args:
        packing: how the model says that it is packed (:func:`poprt.compiler.packing_spec.read_packing`), and which
            widths the engine likes.
    """

    name = "lower_packing"

    def __init__(self, packing: PackingSpec | None) -> None:
        super().__init__()
        self.packing = packing

    def apply(self, graph: gs.Graph) -> PassResult:
        """Write Unpack and Repack as Gathers, and open the declared extents."""
        result = PassResult()
        tensors = graph.tensors()
        if self.packing is None or not self.packing.ragged or INDEX in tensors:
            return result
        lowered: list[gs.Node] = []
        indices: dict[str, _Index] = {}
        gathers = _Nodes()
        for node in list(graph.nodes):
            ours = node.op if node.domain == DOMAIN else ""
            if ours not in ("Unpack", "Repack"):
                lowered.append(node)
                continue
            lengths = node.inputs[-1]
            if lengths.name not in indices:
                in_front = self.packing.subsampled and lengths.name == self.packing.unpack_info
                width = _width(self.packing)
                indices[lengths.name] = _index(graph, lengths, lowered, _FRONT if in_front else _PREFIX, width)
            own = indices[lengths.name]
            lowered += gathers.unpack(node, own.index) if ours == "Unpack" else gathers.repack(node, own.places)
            result.count(f"{ours}s lowered")
        graph.nodes = lowered
        _drop_functions(graph)
        _relax(graph, self.packing)
        result.count("extents opened", len(graph.inputs))
        return result


class _Nodes:
    """The nodes that Unpack and Repack become. Small constants are made once for equal values."""

    def __init__(self) -> None:
        self._constants: dict[str, gs.Constant] = {}

    def _constant(self, key: str, values: np.ndarray[Any, Any]) -> gs.Constant:
        return self._constants.setdefault(key, gs.Constant(f"{_PREFIX}constant_{key}", values))

    def unpack(self, node: gs.Node, index: gs.Tensor) -> list[gs.Node]:
        source, result = node.inputs[0], node.outputs[0]
        nodes: list[gs.Node] = []
        rest = _rest(result)
        if rest is not None:
            shape, dtype = "x".join(map(str, rest)) or "scalar", np.dtype(result.dtype)
            target: gs.Tensor = self._constant(f"stream_shape_{shape}", np.array([-1, *rest], np.int64))
            zero: gs.Tensor = self._constant(f"zero_{dtype.name}_{shape}", np.zeros([1, *rest], dtype))
        else:
            flat, one = self._flat(), self._constant("one", np.array([1], np.int64))
            extents = _add(nodes, "Shape", f"{result.name}_rest", [source], start=2)
            target = _add(nodes, "Concat", f"{result.name}_stream_shape", [flat, extents], axis=0)
            zeros = _add(nodes, "Concat", f"{result.name}_zero_shape", [one, extents], axis=0)
            zeros = _add(nodes, "ConstantOfShape", f"{result.name}_zero_float", [zeros])
            zero = _add(nodes, "CastLike", f"{result.name}_zero", [zeros, source])
        stream = _add(nodes, "Reshape", f"{result.name}_stream", [source, target])
        padded = _add(nodes, "Concat", f"{result.name}_zero_first", [zero, stream], axis=0)
        return [*nodes, _instead(node, "Gather", [padded, index], axis=0)]

    def repack(self, node: gs.Node, places: gs.Tensor) -> list[gs.Node]:
        source, result = node.inputs[0], node.outputs[0]
        row = self._constant("first_axis", np.array([0], np.int64))
        nodes: list[gs.Node] = []
        rest = _add(nodes, "Shape", f"{result.name}_rest", [source], start=2)
        target = _add(nodes, "Concat", f"{result.name}_rows_shape", [self._flat(), rest], axis=0)
        rows = _add(nodes, "Reshape", f"{result.name}_rows", [source, target])
        stream = _add(nodes, "Gather", f"{result.name}_stream", [rows, places], axis=0)
        return [*nodes, _instead(node, "Unsqueeze", [stream, row])]

    def _flat(self) -> gs.Constant:
        return self._constant("flat", np.array([-1], np.int64))


def _add(nodes: list[gs.Node], op: str, name: str, inputs: Sequence[gs.Tensor], **attributes: Any) -> gs.Variable:
    """Append a node with the output ``name`` to ``nodes``."""
    output = gs.Variable(name)
    nodes.append(gs.Node(op, name, attributes, list(inputs), [output]))
    return output


def _instead(node: gs.Node, op: str, inputs: Sequence[gs.Tensor], **attributes: Any) -> gs.Node:
    """A node that makes the output of ``node``, which loses its place."""
    output = node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    return gs.Node(op, node.name, attributes, list(inputs), [output])


@dataclass(frozen=True)
class _Index:
    """What Unpack and Repack read instead of lengths; see :data:`_INDEX`."""

    index: gs.Tensor
    places: gs.Tensor


def _width(packing: PackingSpec) -> str:
    """The lines that make the width of the lengths."""
    multiple, most = packing.width_multiple, packing.segment_max_size[0]
    return _LONGEST if multiple == 1 else _RAISED.format(multiple=multiple, half=multiple // 2, most=most)


def _index(graph: gs.Graph, lengths: gs.Tensor, nodes: list[gs.Node], prefix: str, width: str) -> _Index:
    """Append to ``nodes`` what makes the index of ``lengths``, [n, 1]; names begin with ``prefix``."""
    body = _INDEX % width
    text = f'<domain: "{DOMAIN}", opset_import: ["" : {graph.opset}]> Index (unpack_info) => (index) {{{body}}}'
    function = OnnxImporter.import_function(onnx.parser.parse_function(text))
    replace_uses(function.inputs[0], lengths)
    results = {}
    for node in function.nodes:
        results[node.outputs[0].name] = node.outputs[0]
        node.name = node.outputs[0].name = prefix + node.outputs[0].name
        nodes.append(node)
    return _Index(results["index"], results["places"])


def _rest(tensor: gs.Tensor) -> list[int] | None:
    """The extents after the first two, where they are numbers and the element type is known."""
    if not onnx_dtype(tensor) or isinstance(tensor.dtype, int) or tensor.shape is None:
        return None
    rest = list(tensor.shape)[2:]
    return rest if all(isinstance(extent, int) and extent > 0 for extent in rest) else None


def _drop_functions(graph: gs.Graph) -> None:
    used = {(node.domain, node.op) for scope in walk_graphs(graph) for node in scope.nodes}
    graph.functions = [f for f in graph.functions if f.domain != DOMAIN or (f.domain, f.name) in used]


def _relax(graph: gs.Graph, packing: PackingSpec) -> None:
    """Open the declared extents of inputs and outputs. The tokens come as one row; interior shapes say so as well."""
    for tensor in [tensor for node in graph.nodes for tensor in node.outputs if tensor not in graph.outputs]:
        if tensor.shape is not None:
            tensor.shape = [1 if extent == "rows" else extent for extent in tensor.shape]
    for tensor in graph.inputs:
        if tensor.name in packing.dynamic_inputs:
            _open(tensor, [1, "columns"])
        elif tensor.name in (packing.unpack_info, *packing.sample_inputs):
            _open(tensor, ["samples"])
        elif tensor.name in packing.pair_inputs and tensor.shape is not None:
            axes = packing.pair_inputs[tensor.name]
            tensor.shape = ["longest" if axis in axes else extent for axis, extent in enumerate(tensor.shape)]
            _open(tensor, ["samples"])
    inferred = inferred_types(graph)
    for tensor in graph.outputs:
        kind = packing.outputs.get(tensor.name)
        if kind == "tokens":
            _open(tensor, ["samples", "longest_places" if packing.subsampled else "longest"])
        elif kind == "sample":
            # A declared extent does not tell whether it is one of the sample's (half its places) or always the same.
            proved = extents_of(inferred[tensor.name]) if tensor.name in inferred else ()
            _open(tensor, ["samples", *_names_where_not_proved(tensor, proved)])


def _names_where_not_proved(tensor: gs.Tensor, proved: Sequence[int | str | None]) -> list[int | str | None]:
    """The extents of ``tensor`` but for the first, with a name in place of each that differs from ``proved``."""
    numbers = [extent if isinstance(extent, int) else 0 for extent in proved]
    return [
        extent if numbers[axis : axis + 1] == [extent if isinstance(extent, int) else 0] else f"{tensor.name}_{axis}"
        for axis, extent in list(enumerate(tensor.shape or ()))[1:]
    ]


def _open(tensor: gs.Tensor, extents: Sequence[int | str | None]) -> None:
    """Set the leading extents of ``tensor``, where its shape is declared."""
    if tensor.shape is not None:
        rank = len(tensor.shape)
        tensor.shape = [*extents[:rank], *tensor.shape[len(extents) :]]
