"""Symbolic shapes: which axis of which tensor carries the batch, and which the sequence.

onnxruntime's symbolic shape inference does the work. It runs on a copy of the graph without its large tensors, so
that a 400 MB model costs no more than a small one, and what it found before it met something it cannot infer is
kept.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import onnx
import onnx_graphsurgeon as gs
import sympy
from onnx import TensorProto, helper

from passes.errors import RewriteError
from passes.graph_io import export_weightless
from passes.operators import BROADCASTING
from passes.ops.common import DOMAIN
from passes.refusal import NodeName
from passes.shapes.contents import LARGEST_VALUE_READ, is_shape_like
from passes.shapes.decided import Comparison
from passes.shapes.ort_inference import OrtShapeInference
from passes.shapes.packed import is_unpacked_inside
from passes.shapes.shape_functions import ask_shape_function, has_shape_function

#: An extent: a number, or an expression of the inputs' symbols.
Dim: TypeAlias = "int | sympy.Expr"
Shape: TypeAlias = tuple[Dim, ...]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

logger = logging.getLogger("poprt")


class SymbolicShapes(dict[str, Shape]):
    """Tensor name -> shape. A tensor of unknown rank is absent.

    Attributes:
        contents: tensor name -> the list of extents (or the one extent) that an integer tensor is proved to hold.
        dtypes: tensor name -> its ONNX element type, where that is known.
        guessed: names of tensors whose shape rests on a guess: to look at, not to be written down as a fact.
        of_several_ranks: those of them whose rank depends on a run, whatever the model says of it.
        open_comparisons: the comparisons of open extents in the graph and its subgraphs.
        contradictions: node -> the assumed symbol and the number that it takes for the same extent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, Any] = {}
        self.dtypes: dict[str, int] = {}
        self.guessed: frozenset[str] = frozenset()
        self.of_several_ranks: frozenset[str] = frozenset()
        self.open_comparisons: tuple[Comparison, ...] = ()
        self.contradictions: dict[NodeName, tuple[str, int]] = {}


def symbol(name: str) -> sympy.Symbol:
    """The symbol that inference uses for the dimension called ``name``."""
    return sympy.Symbol(name, integer=True, positive=True)


def numpy_dtype(tensor: gs.Tensor, shapes: SymbolicShapes) -> Any:
    """The declared type of a tensor, else the inferred one.

    Raises:
        KeyError: neither is known.
    """
    if tensor.dtype is not None:
        return tensor.dtype
    return onnx.helper.tensor_dtype_to_np_dtype(shapes.dtypes[tensor.name])


def infer_symbolic_shapes(
    graph: gs.Graph, input_shapes: Mapping[str, Sequence[int | str]] | None = None
) -> SymbolicShapes:
    """Infer the shapes of ``graph``'s tensors.

    Args:
        graph: the main graph; shapes inside its subgraphs are not reported.
        input_shapes: shapes to assume for some inputs instead of the declared ones; a string is a symbol.

    Returns:
        The shapes that are known. Shapes that the graph's tensors carry already win over inferred ones, extent by
        extent, where ``input_shapes`` does not contradict what they were made for. A symbol of ``input_shapes`` is
        never taken for a number or for another: what would be is among the contradictions. With ``input_shapes``,
        other extents that meet in a broadcast are taken for one, as the layout asks for tokens and nothing else;
        without, all is proved: [n, 4] added to [5, 1] is [5, 4], and n stays open, as it may be 1.
    """
    assumed = dict(input_shapes or {})
    renamed, fixed_before = _reinterpret(graph, assumed)
    model = export_weightless(graph, LARGEST_VALUE_READ)
    for value in model.graph.input:
        if value.name in assumed:
            assume(value, assumed[value.name])
    symbols = {extent for shape in assumed.values() for extent in shape if isinstance(extent, str)}
    by_hand = not assumed and not is_unpacked_inside(graph)
    inference = _run(model, frozenset(symbols), by_hand)
    shapes = SymbolicShapes()
    for name, value in inference.values.items():
        shape = _read(value, inference)
        if shape is not None:
            shapes[name] = shape
        if value.type.tensor_type.elem_type:
            shapes.dtypes[name] = value.type.tensor_type.elem_type
    shapes.guessed, shapes.of_several_ranks = frozenset(inference.guessed), frozenset(inference.of_several_ranks)
    shapes.open_comparisons = tuple(inference.open_comparisons)
    shapes.contradictions = inference.contradictions
    shapes.contents = {
        name: data for name, data in inference.contents.items() if data is not None and name not in inference.guessed
    }
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Constant):
            shapes[name] = tuple(tensor.shape)
        elif tensor.shape is not None and name not in assumed and not fixed_before:
            shapes[name] = _merge(shapes.get(name), tensor.shape, renamed)
    return shapes


def _reinterpret(graph: gs.Graph, assumed: Mapping[str, Sequence[int | str]]) -> tuple[dict[str, Dim], bool]:
    """How the symbols of the shapes in the graph read under the assumption, and whether they cannot be trusted.

    They cannot where the model was exported with a fixed extent that is now assumed to vary.
    """
    renamed: dict[str, Dim] = {}
    fixed_before = False
    for tensor in graph.inputs:
        if tensor.shape is None or tensor.name not in assumed:
            continue
        for old, new in zip(tensor.shape, assumed[tensor.name], strict=False):
            if isinstance(old, str):
                renamed[old] = symbol(new) if isinstance(new, str) else new
            elif isinstance(old, int) and old != new:
                fixed_before = True
    return renamed, fixed_before


def assume(value: onnx.ValueInfoProto, shape: Sequence[int | str | None]) -> None:
    """Declare the shape of an input; a string is a symbol, None an extent that is open and unnamed."""
    del value.type.tensor_type.shape.dim[:]
    for extent in shape:
        dim = value.type.tensor_type.shape.dim.add()
        if isinstance(extent, str):
            dim.dim_param = extent
        elif extent is not None:
            dim.dim_value = extent


class _Inference(OrtShapeInference):
    """Symbolic shape inference that asks the registered shape functions where onnx does not know an operator.

    Args:
        model: what to infer.
        symbols: names of extents that are neither numbers nor each other, whatever meets them. Where there are none,
            nothing is said of extents that meet in a broadcast.
        by_hand: take Unpack and Repack by their attributes. In a model that is packed here they say the most that a
            pack holds, not how much.
    """

    def __init__(self, model: onnx.ModelProto, symbols: frozenset[str], by_hand: bool = False) -> None:
        super().__init__(model, int_max=2**31 - 1, merge=bool(symbols))
        self._apart, self._by_hand, self._node = symbols, by_hand, onnx.NodeProto()
        self.contradictions: dict[NodeName, tuple[str, int]] = {}

    def suggest_merge(self, extents: Sequence[Any], apply: bool = False) -> None:
        """Note that names mean the same extent, unless one is to be kept apart from another."""
        if not self._contradicts(extents):
            super().suggest_merge(extents, apply)

    def merge_extents(self, extents: Sequence[Any]) -> Any:
        """Choose one of several names for the same extent."""
        if self._contradicts(extents):
            return next(extent for extent in extents if extent in self._apart)
        return super().merge_extents(extents)

    def _contradicts(self, extents: Sequence[Any]) -> bool:
        names = [extent for extent in extents if extent in self._apart]
        numbers = [extent for extent in extents if isinstance(extent, int) and extent > 1]
        if names and numbers:
            name = NodeName(self._node.op_type, self._node.name or self._node.output[0])
            self.contradictions.setdefault(name, (names[0], numbers[0]))
        return bool(names) and (bool(numbers) or len(set(names)) > 1)

    def infer_node(self, node: onnx.NodeProto) -> None:
        self._node = node
        super().infer_node(node)
        if node.op_type in BROADCASTING:
            self._keep_names(node)
        if node.domain == DOMAIN and node.op_type in ("Unpack", "Repack"):
            self._infer_crossing(node)
        if node.domain == DOMAIN and node.op_type == "AttentionMask":
            self._infer_attention_mask(node)
        if has_shape_function(node.op_type):
            self._ask_shape_function(node)

    def _keep_names(self, node: onnx.NodeProto) -> None:
        """[B, S] and [3, S] -> [B, S]: onnx takes the number, where a name is to be kept apart from it."""
        shapes = [self.input_shape(node, index) for index in range(len(node.input))]
        dims = self.values[node.output[0]].type.tensor_type.shape.dim
        for axis, dim in enumerate(reversed(dims), 1):
            names = [shape[-axis] for shape in shapes if len(shape) >= axis and shape[-axis] in self._apart]
            if names and dim.HasField("dim_value"):
                dim.dim_param = names[0]

    def _infer_crossing(self, node: onnx.NodeProto) -> None:
        """Unpack and Repack change the first two extents alone.

        Left to guess the others, inference would take an unknown extent of 1 for that of the tensor it is broadcast to.
        """
        rest = self.input_shape(node, 0)[2:]
        first = [self.new_extent(node, 0, axis) for axis in range(2)]
        if self._by_hand and node.op_type == "Unpack":
            sizes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            first = [sizes["max_valid_num"], sum(sizes["segment_max_size"])]
        elif self._by_hand:
            first = self.input_shape(node, 1)[:2] or first
        self.set_output(node, 0, [*first, *rest])

    def _infer_attention_mask(self, node: onnx.NodeProto) -> None:
        """[R, C] -> [R, 1, C, C]."""
        shape = self.input_shape(node, 0)
        if len(shape or ()) != 2:
            return
        rows, columns = shape
        kinds = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        dtype = TensorProto.FLOAT16 if kinds["dataType"] == b"FLOAT16" else TensorProto.FLOAT
        self.set_output(node, 0, [rows, 1, columns, columns], dtype)

    def _ask_shape_function(self, node: onnx.NodeProto) -> None:
        unknown = [name for name in node.output if name and not self.values[name].type.tensor_type.elem_type]
        if not unknown:
            return
        inputs = [self.values[name] for name in dict.fromkeys(node.input) if name]
        constants = [self.constants[name] for name in dict.fromkeys(node.input) if name in self.constants]
        answers = ask_shape_function(node, inputs, constants, self.opset_import)
        for index, name in enumerate(node.output):
            dtype, shape = answers.get(name, (0, None))
            if name in unknown and shape is not None:
                extents = [
                    self.new_extent(node, index, axis) if extent is None else extent
                    for axis, extent in enumerate(shape)
                ]
                self.set_output(node, index, extents, dtype)


def _run(model: onnx.ModelProto, symbols: frozenset[str], by_hand: bool) -> _Inference:
    # onnxruntime's public entry point raises when one tensor stays unknown and returns nothing; the shapes found up to
    # there are all we need.
    inference = _Inference(model, symbols, by_hand)
    inference.limit_contents(is_shape_like)
    try:
        inference.walk_to_rest()
    except RewriteError:
        raise
    except Exception as error:  # it reports what it does not know by failed assertions of every kind
        logger.debug("symbolic shape inference stopped early: %s: %s", type(error).__name__, error)
    return inference


def _read(value: onnx.ValueInfoProto, inference: OrtShapeInference) -> Shape | None:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in value.type.tensor_type.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value)
        elif dim.HasField("dim_param") and dim.dim_param:
            dims.append(inference.symbols.get(dim.dim_param, symbol(dim.dim_param)))
        else:
            dims.append(sympy.Dummy("unknown", integer=True, positive=True))
    return tuple(dims)


def _merge(inferred: Shape | None, declared: Sequence[Any], renamed: Mapping[str, Dim]) -> Shape:
    if inferred is not None and len(inferred) != len(declared):
        inferred = None
    merged: list[Dim] = []
    for axis, extent in enumerate(declared):
        if isinstance(extent, str) and extent in renamed:
            merged.append(renamed[extent])
        elif isinstance(extent, str) and _IDENTIFIER.fullmatch(extent) and inferred is None:
            merged.append(symbol(extent))
        elif isinstance(extent, int) and extent >= 0:
            merged.append(extent)
        else:
            merged.append(inferred[axis] if inferred else sympy.Dummy("unknown", integer=True, positive=True))
    return tuple(merged)
