"""``within_rows``: put AttentionMasks in, read positions from ``position_ids``, restart running sums at each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.base import node_label
from passes.building import add_node
from passes.errors import PackingError
from passes.fusion.attention_ops import require_attention_inputs
from passes.ops import DOMAIN
from passes.ops.attention_mask import FORBIDDEN
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.positional import Positional
from passes.packing.within_rows.row_analysis import RowPlan

#: What the AttentionMask is multiplied by where it is added: -60000 is the lowest round number in float16.
_STRONGER = 6.0


class RowRewriter:
    """Carries out a :class:`RowPlan`.

    Args:
        graph: the graph to change.
        axes: shapes of its tensors.
        positional: its positional tensors.
        columns: places in a row.
        mask: the input whose values number the samples.
        positions: the input with each token's place in its sample, integer [R, C].
    """

    def __init__(
        self,
        graph: gs.Graph,
        axes: AxisMap,
        positional: Positional,
        columns: int,
        mask: gs.Variable,
        positions: gs.Variable,
    ) -> None:
        self._graph, self._axes, self._positional, self._columns = graph, axes, positional, columns
        self._mask, self._positions = mask, positions
        self._made: dict[Any, gs.Tensor] = {}

    def apply(self, plan: RowPlan) -> None:
        """Rewrite the graph."""
        for node, index, axis in plan.placed:
            node.inputs[index] = self._by_position(node, index, axis)
        for node in plan.counted:
            self._restart(node)
        for node in plan.masked:
            if node.op == "Softmax":
                self._select(node)
            else:
                self._mask_fused(node)

    def _select(self, softmax: gs.Node) -> None:
        """Give forbidden scores the lowest number there is; adding to them would leave a large one in the lead.

        Finite, so that a row of places that belong to no sample does not become NaN.
        """
        scores = softmax.inputs[0]
        forbidden = self._mask_like(scores)
        dtype = self._dtype(scores)
        lowest = gs.Constant(f"{scores.name}_forbidden", np.array(np.finfo(dtype).min, dtype))
        name = f"{scores.name}_within_samples"
        softmax.inputs[0] = self._add("Where", name, [forbidden, lowest, scores], dtype)

    def needs_positions(self, plan: RowPlan) -> bool:
        """Whether anything differs from place to place of a sample."""
        varies = [
            self._varies(node.inputs[index], self._own_axis(node, index, axis)) for node, index, axis in plan.placed
        ]
        return any(varies) or bool(plan.counted)

    # The AttentionMask.

    def _mask_like(self, scores: gs.Tensor) -> gs.Tensor:
        """Where a pair is forbidden, bool, in the layout of ``scores``."""
        shape = self._axes.require_shape(scores)
        dtype = self._dtype(scores)
        base = self._forbidden(dtype)
        seq = [axis for axis, extent in enumerate(shape) if extent == SEQ]
        batch = next((axis for axis, extent in enumerate(shape) if extent == BATCH), None)
        key = ("mask", dtype.name, tuple(map(str, shape)))
        if key in self._made:
            return self._made[key]
        if len(shape) == 4 and (batch, seq) == (0, [2, 3]):
            mask = base
        elif batch is not None:
            mask = self._arrange(base, [batch, *seq], len(shape))
        else:
            mask = self._merged_heads(base, shape, scores)
        self._made[key] = mask
        return mask

    def _forbidden(self, dtype: np.dtype[Any]) -> gs.Tensor:
        """bool [R, 1, C, C], true where the AttentionMask is not zero."""
        key = ("forbidden", dtype.name)
        if key not in self._made:
            mask = self._attention_mask(dtype)
            self._made[key] = self._add("Cast", f"{mask.name}_forbidden", [mask], to=onnx.TensorProto.BOOL)
        return self._made[key]

    def _numbers(self) -> gs.Tensor:
        """[R, C]: the number of the sample that owns each place; one that the sample masks has it with a minus.

        Places of no sample get -1, a sample of their own: their scores are forbidden everywhere else, not throughout,
        so that nothing which sums over queries finds their even weights.
        """
        if "numbers" not in self._made:
            name = self._mask.name
            zero, own = (gs.Constant(f"{name}_{n}", np.array(n, self._mask.dtype)) for n in (0, -1))
            owned = self._add("Abs", f"{name}_owner", [self._mask])
            empty = self._add("Equal", f"{name}_of_no_sample", [self._mask, zero], np.bool_)
            self._made["numbers"] = self._add("Where", f"{name}_numbers", [empty, own, owned], self._mask.dtype)
        return self._made["numbers"]

    def _attention_mask(self, dtype: np.dtype[Any]) -> gs.Tensor:
        key = ("AttentionMask", dtype.name)
        if key not in self._made:
            number = len([item for item in self._made if item[0] == "AttentionMask"])
            name = "within_samples" + (f"_{number}" if number else "")
            element = onnx.helper.np_dtype_to_tensor_dtype(dtype)
            attrs = {"dataType": "FLOAT16" if dtype == np.float16 else "FLOAT", "to": int(element)}
            output = gs.Variable(name, dtype, ["rows", 1, "columns", "columns"])
            inputs = [self._numbers(), self._numbers()]
            add_node(self._graph.nodes, "AttentionMask", name, inputs, into=output, domain=DOMAIN, **attrs)
            self._made[key] = output
        return self._made[key]

    def _arrange(self, base: gs.Tensor, order: list[int], rank: int) -> gs.Tensor:
        """[R, 1, C, C] -> extents R, C, C at the axes ``order`` of ``rank`` axes, 1 elsewhere."""
        flat = self._add("Squeeze", f"{base.name}_flat_{rank}_{order[0]}", [base, self._constant([1])])
        perm = np.argsort(np.argsort(order)).argsort().tolist()
        if perm != sorted(perm):
            flat = self._add("Transpose", f"{flat.name}_turned", [flat], perm=np.argsort(order).tolist())
        others = [axis for axis in range(rank) if axis not in order]
        return self._add("Unsqueeze", f"{flat.name}_aligned", [flat, self._constant(others)]) if others else flat

    def _merged_heads(self, base: gs.Tensor, shape: tuple[Any, ...], scores: gs.Tensor) -> gs.Tensor:
        """[R, 1, C, C] -> [R * heads, C, C] for scores whose first axis is batch times heads, batch outermost."""
        heads = sympy.simplify(sympy.sympify(shape[0]) / BATCH)
        if len(shape) != 3 or not heads.is_Integer or not self._batch_is_outer(scores):
            raise PackingError(
                f"the scores {scores.name!r} have shape {[str(extent) for extent in shape]}: "
                "the batch axis cannot be found in it, so samples cannot share a row"
            )
        target = self._constant([1, int(heads), 1, 1])
        expanded = self._add("Expand", f"{base.name}_heads_{heads}", [base, target])
        rest = self._constant([-1, self._columns, self._columns])
        return self._add("Reshape", f"{expanded.name}_merged", [expanded, rest])

    def _batch_is_outer(self, scores: gs.Tensor) -> bool:
        """Follow the scores back to the Reshape that merged batch and heads."""
        seen, todo = set(), [scores]
        while todo:
            tensor = todo.pop()
            for node in tensor.inputs:
                if id(node) in seen:
                    continue
                seen.add(id(node))
                before = self._axes.shape(node.inputs[0]) if node.inputs else None
                after = self._axes.shape(node.outputs[0])
                if node.op == "Reshape" and before and after and before[0] == BATCH and after[0] != BATCH:
                    return True
                if after and after[0] != BATCH:
                    todo.extend(item for item in node.inputs if not self._axes.is_free(item))
        return False

    def _mask_fused(self, node: gs.Node) -> None:
        slot = require_attention_inputs(node).bias
        while len(node.inputs) <= slot:
            node.inputs.append(gs.Variable.empty())
        mask = self._added_mask(self._dtype(node.inputs[0]))
        bias = node.inputs[slot]
        node.inputs[slot] = mask if bias.is_empty() else self._with_bias(mask, bias)

    def _added_mask(self, dtype: np.dtype[Any]) -> gs.Tensor:
        """The AttentionMask made as strong as a float16 holds, for operators that can only add it to the scores."""
        key = ("added", dtype.name)
        if key not in self._made:
            mask = self._attention_mask(dtype)
            factor = gs.Constant(f"{mask.name}_factor", np.array(_STRONGER, dtype))
            self._made[key] = self._add("Mul", f"{mask.name}_stronger", [mask, factor])
        return self._made[key]

    def _with_bias(self, mask: gs.Tensor, bias: gs.Tensor) -> gs.Tensor:
        """What the model adds to the scores (or the pairs that it allows) and the AttentionMask, in one."""
        key = ("bias", bias.name, mask.name)
        if key not in self._made:
            name = f"{bias.name}_within_samples"
            if self._dtype(bias) == np.bool_:
                forbidden = gs.Constant(f"{name}_forbidden", np.array(FORBIDDEN * _STRONGER, mask.dtype))
                self._made[key] = self._add("Where", name, [bias, mask, forbidden], mask.dtype)
            else:
                self._made[key] = self._add("Add", name, [bias, mask])
        return self._made[key]

    # Positions.

    def _own_axis(self, node: gs.Node, index: int, axis: int) -> int:
        rank = len(self._axes.shape(node.outputs[0]) or ())
        return axis - (rank - len(self._axes.shape(node.inputs[index]) or ()))

    def _varies(self, tensor: gs.Tensor, axis: int) -> bool:
        table = self._table(tensor, axis)
        return not (table == table[:1]).all()

    def _table(self, tensor: gs.Tensor, axis: int) -> np.ndarray[Any, Any]:
        table = self._positional.table(tensor, axis, self._columns)
        if table is None:
            raise PackingError(
                f"{tensor.name!r} depends on the length of the row, not on the place in it alone, "
                "so samples cannot share a row"
            )
        return table

    def _by_position(self, node: gs.Node, index: int, axis: int) -> gs.Tensor:
        """Replace a positional operand [1, C, ...] by its entries at ``position_ids``, laid out as the result is."""
        tensor, shape = node.inputs[index], self._axes.require_shape(node.outputs[0])
        own = self._own_axis(node, index, axis)
        table = self._table(tensor, own)
        batch = next((number for number, extent in enumerate(shape) if extent == BATCH), None)
        if batch is None:
            raise PackingError(
                f"{node_label(node)}: positions meet a tensor whose batch axis is merged with another, so samples "
                "cannot share a row"
            )
        if not self._varies(tensor, own):
            return gs.Constant(f"{tensor.name}_anywhere_{axis}", np.moveaxis(table[:1], 0, own))
        key = ("positions", tensor.name, axis, len(shape), batch)
        if key not in self._made:
            self._made[key] = self._lookup(tensor, table, len(shape), batch, axis)
        return self._made[key]

    def _lookup(self, tensor: gs.Tensor, table: np.ndarray[Any, Any], rank: int, batch: int, axis: int) -> gs.Tensor:
        # table: [C, the other axes of the operand]; the operand's axis that meets the batch, if any, has extent 1.
        missing = rank - table.ndim
        full = table.reshape(len(table), *(1,) * missing, *table.shape[1:])
        others = [number for number in range(rank) if number != axis]
        full = np.squeeze(full, axis=1 + others.index(batch))
        others.remove(batch)
        entries = gs.Constant(f"{tensor.name}_table_{batch}_{axis}", np.ascontiguousarray(full))
        looked_up = self._add(
            "Gather", f"{entries.name}_at_positions", [entries, self._positions], dtype=full.dtype, axis=0
        )
        order = [batch, axis, *others]
        if order == sorted(order):
            return looked_up
        return self._add("Transpose", f"{looked_up.name}_aligned", [looked_up], perm=np.argsort(order).tolist())

    def _restart(self, node: gs.Node) -> None:
        """Take from each running sum what it had reached before the sample began."""
        result, values = node.outputs[0], node.inputs[0]
        running = gs.Variable(f"{result.name}_along_row", result.dtype)
        node.outputs[0] = running
        before = running
        if not node.attrs.get("exclusive", 0):
            before = self._add("Sub", f"{result.name}_before", [running, values])
        starts = self._starts()
        offset = self._add("GatherElements", f"{result.name}_at_start", [before, starts], axis=1)
        add_node(self._graph.nodes, "Sub", f"{result.name}_restarted", [running, offset], into=result)

    def _starts(self) -> gs.Tensor:
        """int64 [R, C]: the column where the sample that owns the place begins."""
        if "starts" not in self._made:
            columns = gs.Constant("row_places", np.arange(self._columns, dtype=np.int64)[None])
            positions = self._add("Cast", "position_ids_int64", [self._positions], to=onnx.TensorProto.INT64)
            self._made["starts"] = self._add("Sub", "sample_starts", [columns, positions])
        return self._made["starts"]

    # Building.

    def _dtype(self, tensor: gs.Tensor) -> np.dtype[Any]:
        declared = tensor.dtype
        if declared is None:
            declared = onnx.helper.tensor_dtype_to_np_dtype(self._axes.shapes.dtypes[tensor.name])
        dtype: np.dtype[Any] = np.dtype(declared)
        return dtype

    def _constant(self, values: list[int]) -> gs.Constant:
        key = ("constant", tuple(values))
        if key not in self._made:
            self._made[key] = gs.Constant(f"row_constant_{len(self._made)}", np.array(values, np.int64))
        return self._made[key]

    def _add(self, op: str, name: str, inputs: list[gs.Tensor], dtype: Any = None, **attrs: Any) -> gs.Tensor:
        if op == "Cast":
            dtype = onnx.helper.tensor_dtype_to_np_dtype(attrs["to"])
        return add_node(self._graph.nodes, op, name, inputs, inputs[0].dtype if dtype is None else dtype, **attrs)
