"""onnxruntime's symbolic shape inference, told apart into what it proves and what it guesses.

It decides comparisons of extents as if names were values, and takes a branch by them: those rules are ours here. Where
it still has to guess a rank, the guess is noted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import sympy

from passes.node_protos import subgraphs, walk_nodes
from passes.operators import BROADCASTING
from passes.shapes.broadcast_extents import broadcast_extent
from passes.shapes.decided import COMPARISONS, Comparison, are_ordered, equal, truth

#: Element types whose contents inference knows exactly; of floats it drops what is behind the point.
_WHOLE = frozenset(
    kind
    for kind in onnx.TensorProto.DataType.values()
    if onnx.TensorProto.DataType.Name(kind).startswith(("INT", "UINT", "BOOL"))
)


def _load() -> ModuleType:
    """onnxruntime.tools.symbolic_shape_infer, without its package.

    The package imports torch wherever it is installed: two seconds and some 200 MB for nothing.
    """
    path = Path(onnxruntime.__file__).parent / "tools" / "symbolic_shape_infer.py"
    spec = importlib.util.spec_from_file_location("onnxruntime_symbolic_shape_infer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORT = _load()

#: Infers one node and notes the shapes of its outputs.
Rule = Callable[[onnx.NodeProto], None]


class NotesGuesses(ORT.SymbolicShapeInference):  # type: ignore[misc, name-defined]  # it has no types
    """onnxruntime guesses where it does not know a rank, and goes on from there. This notes what rests on a guess.

    A guess is the rank of an operator that it does not know; the shape of an If whose branches have different ranks, or
    one of them none that is known; that of a Loop or Scan whose body is such a case, or changes a rank; and that of a
    Squeeze whose axes depend on the extents. onnxruntime makes another of this class for each subgraph.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        #: Names of the tensors whose shapes are not proved.
        self.guessed: set[str] = set()
        #: Those of them whose rank depends on a run, whatever the model says of it.
        self.of_several_ranks: set[str] = set()
        #: The comparisons of open extents that came up, each once.
        self.open_comparisons: dict[Comparison, None] = {}
        self._current = onnx.NodeProto()
        self._measures: set[str] = set()  # names of what holds the extents of a tensor
        self._measured: set[Any] = set()  # those extents
        self._ort_rules: dict[str, Rule] = dict(self.dispatcher_)
        self.dispatcher_.update(
            Cast=self._cast,
            Equal=self._equal,
            Gather=self._of_literal_shape,
            If=self._branch,
            Reshape=self._of_literal_shape,
            Shape=self._shape_of,
            Size=self._of_literal_shape,
            Slice=self._slice,
            Squeeze=self._squeeze,
            Where=self._choose,
        )

    def _onnx_infer_single_node(self, node: onnx.NodeProto) -> None:
        self._current = node
        super()._onnx_infer_single_node(node)
        if node.op_type in BROADCASTING and not self.auto_merge_:
            self._name_extents(node)
        if node.op_type in COMPARISONS:
            self._note_comparison(node)
        if self._has_literal_shape(node):
            return
        reads = set(_reads(node))
        if reads & self.guessed:
            self.guessed.update(node.output)
        if reads & self.of_several_ranks and not self._has_rank_of_length(node):
            self.of_several_ranks.update(node.output)

    def _note_comparison(self, node: onnx.NodeProto) -> None:
        if self.known_vi_[node.input[0]].type.tensor_type.elem_type == onnx.TensorProto.STRING:
            return
        operands = self._get_int_or_float_values(node, broadcast=True, allow_float_values=True)
        if any(operand is None for operand in operands):
            return
        for left, right in zip(*(value if isinstance(value, list) else [value] for value in operands), strict=False):
            if any(isinstance(item, sympy.Basic) and item.free_symbols for item in (left, right)):
                self.open_comparisons[Comparison(node.op_type, left, right)] = None

    def _has_literal_shape(self, node: onnx.NodeProto) -> bool:
        """Whether the shape of the output is the same whatever that of the first input is."""
        if node.op_type == "Gather":
            return node.input[0] in self._measures and node.input[1] not in self.guessed
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] in self.guessed:
            return node.op_type == "Size"
        target = self._try_get_value(node, 1)
        return target is not None and all(isinstance(n, (int, np.integer)) and n > 0 for n in target)

    def _has_rank_of_length(self, node: onnx.NodeProto) -> bool:
        """Whether the output has as many axes as a list has places."""
        return node.op_type == "Reshape" and len(node.input) > 1 and node.input[1] not in self.of_several_ranks

    def _new_symbolic_shape(self, rank: int, node: onnx.NodeProto, out_idx: int = 0) -> Any:
        element = self.known_vi_[node.output[out_idx]].type.tensor_type.elem_type
        if not element and node.op_type != "ConvTranspose":  # of that it takes the type away to get here
            self.guessed.add(node.output[out_idx])
        return super()._new_symbolic_shape(rank, node, out_idx)

    # Extents that meet. With ``auto_merge`` onnxruntime takes those of a broadcast for one; each of them may be 1.

    def _broadcast_shapes(self, shape1: Sequence[Any], shape2: Sequence[Any]) -> list[Any]:
        if self.auto_merge_:
            merged: list[Any] = super()._broadcast_shapes(shape1, shape2)
            return merged
        met = list(zip_longest(reversed(shape1), reversed(shape2), fillvalue=1))
        return [self._proved_extent(extents, axis) for axis, extents in reversed(list(enumerate(met, 1)))]

    def _proved_extent(self, extents: Sequence[Any], axis: int) -> Any:
        """That of axis ``-axis`` of the node's first output; a new name where the others prove none."""
        proved = broadcast_extent(extents, self.symbolic_dims_)
        return str(self._new_symbolic_dim_from_output(self._current, 0, -axis)) if proved is None else proved

    def _name_extents(self, node: onnx.NodeProto) -> None:
        """onnx leaves open what comes of two names, and the walk would stop there."""
        shapes = [self._get_shape(node, index) for index in range(len(node.input))]
        for axis, dim in enumerate(reversed(self.known_vi_[node.output[0]].type.tensor_type.shape.dim), 1):
            if not dim.HasField("dim_value"):
                extent = self._proved_extent([shape[-axis] for shape in shapes if axis <= len(shape)], axis)
                dim.CopyFrom(onnx.helper.make_tensor_value_info("", 1, [extent]).type.tensor_type.shape.dim[0])

    def _merge_symbols(self, dims: Sequence[Any]) -> Any:
        """Of extents that must be alike, as those beside the axis of a Concat."""
        if self.auto_merge_:
            return super()._merge_symbols(dims)
        return next((extent for extent in dims if ORT.is_literal(extent)), dims[0])

    def _add_suggested_merge(self, symbols: Sequence[Any], apply: bool = False) -> None:
        if self.auto_merge_:
            super()._add_suggested_merge(symbols, apply)

    def _fuse_tensor_type(
        self, node: onnx.NodeProto, out_idx: int, dst_type: onnx.TypeProto, src_type: onnx.TypeProto
    ) -> None:
        ranks = {_rank(dst_type), _rank(src_type)}
        if None in ranks or len(ranks) > 1:
            self.guessed.add(node.output[out_idx])
        if None not in ranks and len(ranks) > 1:
            self.of_several_ranks.add(node.output[out_idx])
        super()._fuse_tensor_type(node, out_idx, dst_type, src_type)

    def _onnx_infer_subgraph(self, node: onnx.NodeProto, subgraph: onnx.GraphProto, *args: Any, **keywords: Any) -> Any:
        nested = super()._onnx_infer_subgraph(node, subgraph, *args, **keywords)
        self.open_comparisons.update(nested.open_comparisons)
        results = {output.name: _rank(output.type) for output in subgraph.output}
        if node.op_type == "Loop":
            carried = zip(subgraph.input[1:], subgraph.output, strict=False)
            moved = any(_rank(before.type) != _rank(after.type) for before, after in carried)
        else:
            moved = False
        if moved or nested.guessed & set(results) or (node.op_type != "If" and None in results.values()):
            self.guessed.update(node.output)
        if nested.of_several_ranks & set(results):
            self.of_several_ranks.update(node.output)
        return nested

    # The rules that decide.

    def _shape_of(self, node: onnx.NodeProto) -> None:
        """[B, S, 8] with start 1 -> holds [S, 8]: older onnxruntime overlooks ``start`` and ``end``."""
        bounds = {item.name: item.i for item in node.attribute}
        extents = self._get_sympy_shape(node, 0)
        self._measured.update(extents)
        self._measures.add(node.output[0])
        self.sympy_data_[node.output[0]] = extents[slice(bounds.get("start", 0), bounds.get("end", len(extents)))]

    def _of_literal_shape(self, node: onnx.NodeProto) -> None:
        """The shape is a fact whatever the input's is; what was computed from a guess is none."""
        self._ort_rules[node.op_type](node)
        if node.input[0] in self.guessed:
            self.sympy_data_.pop(node.output[0], None)

    def _squeeze(self, node: onnx.NodeProto) -> None:
        """Without axes, an open extent may be one that goes; onnxruntime takes it to stay."""
        is_open = any(not isinstance(extent, int) for extent in self._get_shape(node, 0))
        computed = len(node.input) > 1 and bool(node.input[1])
        axes = self._try_get_value(node, 1) if computed else ORT.get_attribute(node, "axes")
        if axes is None and (is_open or computed):
            self.guessed.add(node.output[0])
            self.of_several_ranks.add(node.output[0])
        self._ort_rules["Squeeze"](node)

    def _slice(self, node: onnx.NodeProto) -> None:
        """onnxruntime takes an end for that of the axis where it cannot tell which comes first."""
        self._ort_rules["Slice"](node)
        ends = ORT.as_list(self._try_get_value(node, 2), keep_none=True)
        axes = ORT.as_list(self._try_get_value(node, 3), keep_none=True)
        if ends is None:
            return
        bounds, dims = self._get_sympy_shape(node, 0), self.known_vi_[node.output[0]].type.tensor_type.shape.dim
        for axis, end in zip(range(len(ends)) if axes is None else axes, ends, strict=False):
            if not are_ordered(end, bounds[int(axis)]):
                dims[int(axis)].dim_param = str(self._new_symbolic_dim_from_output(node, 0, int(axis)))

    def _equal(self, node: onnx.NodeProto) -> None:
        """onnxruntime asks whether both are written alike, and so takes an open extent for another number than 1."""
        if self._holds_whole_numbers(node.input[0]):
            self._note_each(node, self._are_equal)

    def _are_equal(self, pair: Any) -> bool | None:
        """None, too, where an extent was taken for another because they meet in a broadcast: it may be 1 instead."""
        if any(number < 0 for number in pair if ORT.is_literal(number)):
            return equal(pair[0], pair[1], self._measured)
        merged = {str(extent) for extent in self.suggested_merge_.values()}
        return (
            None
            if merged & {str(part) for item in pair for part in _parts(item)}
            else equal(pair[0], pair[1], self._measured)
        )

    def _choose(self, node: onnx.NodeProto) -> None:
        """Where: onnxruntime takes each condition that is not False for true."""
        self._note_each(node, _chosen)

    def _cast(self, node: onnx.NodeProto) -> None:
        """onnxruntime leaves a number what it is when it becomes a boolean, and a boolean when it becomes a number."""
        if ORT.get_attribute(node, "to") != onnx.TensorProto.BOOL:
            self._note_each(node, lambda item: int(item[0]) if isinstance(item[0], bool) else item[0])
        elif self._holds_whole_numbers(node.input[0]):
            self._note_each(node, lambda item: truth(item[0]))

    def _note_each(self, node: onnx.NodeProto, compute: Callable[[Any], Any]) -> None:
        """Note what the output holds, element by element, where each of them is known."""
        self._compute_on_sympy_data(node, compute)
        contents = self.sympy_data_.get(node.output[0])
        if contents is None or (isinstance(contents, list) and None in contents):
            self.sympy_data_.pop(node.output[0], None)

    def _holds_whole_numbers(self, name: str) -> bool:
        return name in self.known_vi_ and self.known_vi_[name].type.tensor_type.elem_type in _WHOLE

    def _branch(self, node: onnx.NodeProto) -> None:
        """If: onnxruntime writes the branch that is taken over the other, which a later round of a loop may take."""
        condition = self._try_get_value(node, 0)
        decided = None if condition is None else truth(ORT.as_scalar(condition))
        if decided is None:
            self.sympy_data_.pop(node.input[0], None)
            self._ort_rules["If"](node)
            return
        self.sympy_data_[node.input[0]] = decided
        branches = [(graph, graph.SerializeToString()) for graph in subgraphs(node)]
        self._ort_rules["If"](node)
        for graph, before in branches:
            graph.ParseFromString(before)


setattr(ORT, "SymbolicShapeInference", NotesGuesses)  # noqa: B010  (untyped; it makes another for each subgraph)


def _parts(item: Any) -> Any:
    """The dimensions of an expression, or the number."""
    return item.free_symbols or {item} if isinstance(item, sympy.Basic) else {item}


def _chosen(operands: Any) -> Any:
    condition, yes, no = operands
    decided = truth(condition)
    if decided is None:
        return yes if yes == no else None
    return yes if decided else no


def _rank(kind: onnx.TypeProto) -> int | None:
    """Of a tensor, or of those in a sequence."""
    tensor = (kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind).tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, in its subgraphs too."""
    return (name for inner in walk_nodes([node]) for name in inner.input)
