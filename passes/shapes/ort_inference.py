"""onnxruntime's symbolic shape inference, behind names of our own, with the rules mended that it gets wrong.

Its class has no public interface for walking node by node. This file and ``guesses.py`` alone reach its private names:
what a new version of onnxruntime renames is mended there. ``tests/passes/shapes/test_ort_inference.py`` runs each of
them; ``make test-lowest`` does so on the oldest version allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import sympy
from onnx import helper

from passes.operators import BROADCASTING, Family, lookup, members
from passes.shapes.attention_shapes import standard_attention_shapes
from passes.shapes.broadcast_extents import without_ones
from passes.shapes.contents import LARGEST_VALUE_READ
from passes.shapes.guesses import ORT, NotesGuesses, Rule
from passes.shapes.resize_shapes import resized_extents

#: onnxruntime knows these with axes as an attribute alone; from opset 18 on they are an input.
_REDUCTIONS = members(Family.REDUCTION) - {"ReduceMean", "ReduceProd", "ReduceSum"}
_HIGHEST_RANK = 64  # engines know eight axes or so


class OrtShapeInference(NotesGuesses):
    """Walks a graph node by node. Subclasses override :meth:`infer_node`, :meth:`merge_extents`, :meth:`suggest_merge`.

    Args:
        model: what to infer; copied.
        int_max: the largest number that an integer of the graph may hold.
        merge: take the extents that meet in a broadcast for one. Without it nothing is said of them, as either may
            be 1.
    """

    def __init__(self, model: onnx.ModelProto, int_max: int, merge: bool = True) -> None:
        super().__init__(int_max=int_max, auto_merge=merge, guess_output_rank=True, verbose=0)
        self.sympy_data_: dict[str, Any] = {}
        self._preprocess(model)
        self._ort_attention, self._ort_constant = self.rules["Attention"], self.rules["Constant"]
        self.rules.update(
            Attention=self._attention,
            Constant=self._constant,
            ConstantOfShape=self._constant_of_shape,
            Flatten=self._flatten,
            GatherBlockQuantized=self._quantised_lookup,
            GatherND=self._gather_nd,
            MatMulBnb4=self.rules["MatMulNBits"],
            Resize=self._resize,
        )
        if (ORT.get_opset(self.out_mp_) or 0) >= 18:
            self.rules.update(dict.fromkeys(_REDUCTIONS, self.rules["ReduceSum"]))

    # The walk.

    @property
    def complete(self) -> bool:
        """Whether the last round left nothing to infer again."""
        return not self.run_

    def walk_once(self) -> None:
        """Walk all nodes once. onnxruntime wants another round after it merged two extents."""
        self._infer_impl()

    def walk_to_rest(self) -> bool:
        """Walk until nothing is left to infer again; False where a round learnt nothing, and so would all others."""
        learnt: tuple[int, int] | None = None
        while not self.complete:
            self.walk_once()
            before, learnt = learnt, (len(self.values), len(self.suggested_merge_))
            if learnt == before:
                return self.complete
        return True

    def infer_node(self, node: onnx.NodeProto) -> None:
        """Infer one node as onnx does; the rule of its operator comes next."""
        self._check_rank(node)
        super()._onnx_infer_single_node(node)
        if node.op_type in BROADCASTING and self.auto_merge_:
            self._name_broadcast_extents(node)

    def _name_broadcast_extents(self, node: onnx.NodeProto) -> None:
        """[B, S - Max(0, S - 1)] and [B, S] -> [B, S]: onnxruntime would take the two extents of axis 1 for one."""
        shapes = [list(reversed(self.input_shape(node, index))) for index in range(len(node.input))]
        dims = self.values[node.output[0]].type.tensor_type.shape.dim
        for axis, dim in enumerate(reversed(dims)):
            if dim.HasField("dim_value") or dim.dim_param in self.symbols:
                continue
            extents = list(dict.fromkeys(shape[axis] for shape in shapes if axis < len(shape)))
            several = without_ones(extents, self.symbols)
            if len(several) == 1:
                dim.CopyFrom(helper.make_tensor_value_info("", 1, several).type.tensor_type.shape.dim[0])

    def _check_rank(self, node: onnx.NodeProto) -> None:
        """Stop before onnx makes room for a rank that no engine knows: Reshape to an int64[200000000]."""
        index = lookup(node.op_type).shape_input
        if index is None or index >= len(node.input) or node.input[index] not in self.values:
            return
        extents = self.input_shape(node, index)
        assert not (extents and isinstance(extents[0], int) and extents[0] > _HIGHEST_RANK), f"rank {extents[0]}"

    def merge_extents(self, extents: Sequence[Any]) -> Any:
        """Choose one of several names for the same extent; an extent that is 1 is broadcast, and gives none."""
        several = without_ones(extents, self.symbols)
        return super()._merge_symbols(several) if len(several) > 1 else several[0]

    def suggest_merge(self, extents: Sequence[Any], apply: bool = False) -> None:
        """Note that names mean the same extent; not of one that is 1 and broadcast."""
        several = without_ones(extents, self.symbols)
        if len(several) > 1:
            super()._add_suggested_merge(several, apply)

    def limit_contents(self, is_kept: Callable[[Any], bool]) -> None:
        """Let each operator forget the contents that are not kept, before the next one makes more of them."""
        for op_type, rule in self.rules.items():
            self.rules[op_type] = self._forgetful(rule, is_kept)

    # What is known.

    @property
    def rules(self) -> dict[str, Rule]:
        """Operator type -> its rule. To be changed."""
        rules: dict[str, Rule] = self.dispatcher_
        return rules

    @property
    def values(self) -> dict[str, onnx.ValueInfoProto]:
        """Tensor name -> its type and shape."""
        values: dict[str, onnx.ValueInfoProto] = self.known_vi_
        return values

    @property
    def contents(self) -> dict[str, Any]:
        """Name of an integer tensor -> the extents that it holds."""
        return self.sympy_data_

    @property
    def symbols(self) -> Mapping[str, Any]:
        """Name of a dimension -> its expression."""
        symbols: Mapping[str, Any] = self.symbolic_dims_
        return symbols

    @property
    def constants(self) -> Mapping[str, onnx.TensorProto]:
        """Name of an initializer -> its value."""
        constants: Mapping[str, onnx.TensorProto] = self.initializers_
        return constants

    @property
    def opset_import(self) -> Sequence[onnx.OperatorSetIdProto]:
        """The operator sets of the model."""
        opsets: Sequence[onnx.OperatorSetIdProto] = self.out_mp_.opset_import
        return opsets

    def input_shape(self, node: onnx.NodeProto, index: int) -> list[Any]:
        """The extents of an input, numbers and names."""
        extents: list[Any] = self._get_shape(node, index)
        return extents

    def new_extent(self, node: onnx.NodeProto, output: int, axis: int) -> str:
        """A name for an extent that nothing is known of."""
        return str(self._new_symbolic_dim_from_output(node, output, axis))

    def set_output(self, node: onnx.NodeProto, index: int, shape: Sequence[Any], dtype: int | None = None) -> None:
        """Note the shape of an output; its type is that of the first input where none is given."""
        name = node.output[index]
        kind = self.values[node.input[0]].type.tensor_type.elem_type if dtype is None else dtype
        self.values[name].CopyFrom(helper.make_tensor_value_info(name, kind, list(shape)))

    # The rules that are mended.

    def _gather_nd(self, node: onnx.NodeProto) -> None:
        """[B, S, H] at [B, n, 1] with batch_dims 1 -> [B, n, H]: onnxruntime overlooks ``batch_dims``."""
        data, indices = self.input_shape(node, 0), self.input_shape(node, 1)
        batch = next((item.i for item in node.attribute if item.name == "batch_dims"), 0)
        if not isinstance(indices[-1], int):
            raise ValueError(f"GatherND {node.name!r}: how many axes its indices name is not known")
        self.set_output(node, 0, [*indices[:-1], *data[batch + indices[-1] :]])

    def _quantised_lookup(self, node: onnx.NodeProto) -> None:
        """Table [V, H], by [B, S] -> [B, S, H] of the scales' type; bytes that hold several numbers of H each."""
        attributes = {item.name: item.i for item in node.attribute}
        table, indices = self.input_shape(node, 0), self.input_shape(node, 1)
        axis = attributes.get("gather_axis", 0) % len(table)
        if self.values[node.input[0]].type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            table[-1] *= 8 // attributes.get("bits", 4)
        kind = self.values[node.input[2]].type.tensor_type.elem_type
        self.set_output(node, 0, [*table[:axis], *indices, *table[axis + 1 :]], kind)

    def _attention(self, node: onnx.NodeProto) -> None:
        """onnxruntime goes by the name and takes the standard Attention for com.microsoft's, which has other inputs."""
        if node.domain:
            self._ort_attention(node)
            return
        shapes = standard_attention_shapes(node, *(self.input_shape(node, index) for index in range(3)))
        for index, (name, shape) in enumerate(zip(node.output, shapes, strict=False)):
            if name:
                self.set_output(node, index, shape)

    def _constant(self, node: onnx.NodeProto) -> None:
        """onnxruntime knows ``value`` alone and stops at ``value_ints``."""
        values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if "value" in values:
            self._ort_constant(node)
        for name in ("value_int", "value_ints"):
            if name in values:
                self.contents[node.output[0]] = np.array(values[name], np.int64)

    def _flatten(self, node: onnx.NodeProto) -> None:
        """[n, L, H] -> [n, L * H]: onnx alone would call the products by new names."""
        shape = self._get_sympy_shape(node, 0)
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        axis = axis + len(shape) if axis < 0 else axis
        extents = [sympy.prod(shape[:axis]), sympy.prod(shape[axis:])]
        self._update_computed_dims(extents)
        self.set_output(node, 0, ORT.get_shape_from_sympy_shape(extents))

    def _resize(self, node: onnx.NodeProto) -> None:
        """[B, C, H, W] by scales [1, 1, 2, 2] -> [B, C, 2 * H, 2 * W]; see :func:`resized_extents`."""
        first = 1 if (ORT.get_opset(self.out_mp_) or 0) <= 10 else 2
        roi, scales, sizes = (self._try_get_value(node, index) for index in (first - 1, first, first + 1))
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        extents = resized_extents(self._get_sympy_shape(node, 0), attributes, roi, scales, sizes)
        if extents is None:
            extents = self._new_symbolic_shape(self._get_shape_rank(node, 0), node)
        self._update_computed_dims(extents)
        self.set_output(node, 0, ORT.get_shape_from_sympy_shape(extents))

    def _constant_of_shape(self, node: onnx.NodeProto) -> None:
        """Of a large tensor the shape alone: onnxruntime would compute the values."""
        extents = self._get_int_or_float_values(node)[0]
        listed = extents if isinstance(extents, list) else [extents]
        if not all(isinstance(n, int) for n in listed) or math.prod(listed) <= LARGEST_VALUE_READ:
            super()._infer_ConstantOfShape(node)
            return
        self.set_output(node, 0, listed, self.values[node.output[0]].type.tensor_type.elem_type)

    def _forgetful(self, rule: Rule, is_kept: Callable[[Any], bool]) -> Rule:
        def run(node: onnx.NodeProto) -> None:
            rule(node)
            for name in node.output:
                if name in self.contents and not is_kept(self.contents[name]):
                    del self.contents[name]

        return run

    # What onnxruntime calls.

    def _onnx_infer_single_node(self, node: onnx.NodeProto) -> None:
        self.infer_node(node)

    def _merge_symbols(self, dims: Sequence[Any]) -> Any:
        return self.merge_extents(dims)

    def _add_suggested_merge(self, symbols: Sequence[Any], apply: bool = False) -> None:
        self.suggest_merge(symbols, apply)

    def _new_symbolic_shape(self, rank: int, node: onnx.NodeProto, out_idx: int = 0) -> Any:
        assert rank <= _HIGHEST_RANK, f"{node.op_type} {node.name!r} would have rank {rank}"
        return super()._new_symbolic_shape(rank, node, out_idx)
