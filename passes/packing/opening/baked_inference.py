"""Symbolic shape inference of a model whose batch and sequence were fixed: it reads constants as what they mean.

onnxruntime's inference walks the nodes. Before each, :class:`BakedInference` looks at the constants that it reads.
Where data flow shows which extent a number stands for, inference goes on with that extent, and the change that
the graph needs is noted. Where it does not, the node is refused: nothing can be said of other shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import sympy
from onnx import numpy_helper

from passes.node_protos import subgraphs
from passes.operators import BROADCASTING, ELEMENTWISE, Family, members
from passes.packing.opening.axis_atoms import AxisOrders
from passes.packing.opening.baked_rules import INT_MAX, RULES, attribute
from passes.packing.opening.length_bound import LengthBound
from passes.packing.opening.room import Room, room_in
from passes.packing.tokens.axes import BATCH, SEQ, mentions_tokens
from passes.refusal import Cause, NodeName, Refusal, because, first_refusal
from passes.shapes.ort_inference import OrtShapeInference

#: What a sequence length may be a number in. Equal looks for an id.
_ARITHMETIC = members(Family.ARITHMETIC, Family.COMPARISON) - {"Equal"} | {"Mod"}
#: Operators that pair the places of their operands in ways that only they know.
_PAIRING = frozenset(
    {
        "Attention", "Einsum", "GatherElements", "GatherND", "Gemm", "MultiHeadAttention", "OneHot", "RotaryEmbedding",
        "ScatterElements", "ScatterND",
    }
)  # fmt: skip
#: Operators whose result has the axes of their first operand.
_KEEPS_AXES = ELEMENTWISE | {"Softmax", "LogSoftmax", "Hardmax"}


#: What is refused where no single node is to blame.
THE_MODEL = NodeName("", "the model")


class RestartError(Exception):
    """Something was learnt about an earlier node; walk again."""


@dataclass
class Findings:
    """What a walk found.

    Attributes:
        targets: output name of a Reshape, Expand or Tile -> the extents that its shape input should hold.
        cuts: (output name of the reader, input index) -> {axis: extent} of constants to be cut to an actual extent.
        whole: output names of Slices whose end is the whole axis -> their ends.
        grown: (output name of an Expand or Tile, axis) -> the extent that it gives that axis.
        early: (output name of the reader, input index) -> {axis: extent} of constants that must be cut because a later
            node shows what their extent means.
        refusals: why the model holds for its own shapes alone, by node.
        rooms: the nodes that have no room for the longest sequence.
    """

    targets: dict[str, list[Any]] = field(default_factory=dict)
    cuts: dict[tuple[str, int], dict[int, Any]] = field(default_factory=dict)
    whole: dict[str, list[int]] = field(default_factory=dict)
    grown: dict[tuple[str, int], Any] = field(default_factory=dict)
    early: dict[tuple[str, int], dict[int, Any]] = field(default_factory=dict)
    refusals: dict[NodeName, Refusal] = field(default_factory=dict)
    rooms: list[Room] = field(default_factory=list)

    def refuse(self, node: NodeName, refusal: Refusal) -> None:
        """Note why the model holds for its own shapes alone; a node's first refusal stays."""
        self.refusals.setdefault(node, replace(refusal, node=node))


class BakedInference(OrtShapeInference):
    """See the module.

    Args:
        model: with the symbols BATCH and SEQ declared on its inputs, without large weights.
        sizes: the numbers that BATCH and SEQ were fixed to.
        dependent: names of the tensors that depend on an input.
        same_along: tells whether a constant tensor is the same everywhere along an axis.
        findings: what earlier walks found.
        bound: the longest sequence, which decides what is the smaller of it and a number.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        sizes: Mapping[Any, int],
        dependent: set[str],
        same_along: Callable[[str, int], bool],
        findings: Findings,
        bound: LengthBound,
    ) -> None:
        super().__init__(model, INT_MAX)
        self._sizes, self._dependent, self._same_along, self.findings = sizes, dependent, same_along, findings
        self.bound, self.dependent = bound, dependent
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self.orders = AxisOrders()
        self._borrowed: list[tuple[dict[str, Any], str, Any]] = []
        self._node: onnx.NodeProto | None = None

    def walk(self) -> None:
        """Walk the graph until inference is complete."""
        if not self.walk_to_rest():
            self._refuse(because("has a shape on which inference does not come to rest"))

    # What inference calls.

    def infer_node(self, node: onnx.NodeProto) -> None:
        """Look at the constants that the node reads first."""
        self._give_back()
        self._node = node
        self._decide_bounds(node)
        if any(name in self._dependent for name in node.input):
            self._refuse(self._look_at(node))
        super().infer_node(node)

    def suggest_merge(self, extents: Sequence[Any], apply: bool = False) -> None:
        """Note that names mean the same extent, but for batch and sequence, which stay apart."""
        if not self._conflict(extents):
            super().suggest_merge(extents, apply)

    def merge_extents(self, extents: Sequence[Any]) -> Any:
        """Choose one of several names; batch or sequence where one of them is it."""
        if self._conflict(extents):
            return next(extent for extent in extents if _is_exact(extent))
        return super().merge_extents(extents)

    def _conflict(self, dims: Sequence[Any]) -> bool:
        """Whether batch or sequence would be taken for each other or for a number."""
        exact = {str(dim) for dim in dims if _is_exact(dim) or (isinstance(dim, int) and dim > 1)}
        if len(exact) < 2 or not any(_is_exact(dim) for dim in dims):
            return False
        self._refuse(because(f"takes {' and '.join(sorted(exact))} for the same extent"))
        return True

    def _refuse(self, refusal: Refusal | None) -> None:
        """Note why the present node holds for its own shapes alone, if it does."""
        if refusal is not None:
            self.findings.refuse(_name_of(self._node) if self._node else THE_MODEL, refusal)

    def _decide_bounds(self, node: onnx.NodeProto) -> None:
        """Let inference read plain extents where the bound decides a Min or a Max."""
        for name in filter(None, node.input):
            if name in self.contents:
                self.contents[name] = self.bound.decide_contents(self.contents[name])
            value = self.values.get(name)
            for dim in value.type.tensor_type.shape.dim if value is not None else ():
                decided = self.bound.decide(self.symbols.get(dim.dim_param))
                if isinstance(decided, int):
                    dim.dim_value = decided
                elif str(decided) in self.symbols:
                    dim.dim_param = str(decided)

    def note_room(self, extent: Any, needed: Any) -> None:
        """Note that the present node takes Min(512, seq) for seq: it has no room for the longest sequence."""
        places = room_in(extent)
        if places is not None and needed == SEQ and self._node is not None:
            self.findings.rooms.append(Room(_name_of(self._node), places))

    def lend(self, table: dict[str, Any], name: str, value: Any) -> None:
        """Let the present node see ``value``; other readers of the same constant do not."""
        self._borrowed.append((table, name, table.get(name)))
        table[name] = value

    def _give_back(self) -> None:
        for table, name, value in reversed(self._borrowed):
            if value is None:
                table.pop(name, None)
            else:
                table[name] = value
        self._borrowed.clear()

    # What is known of tensors.

    def extents(self, name: str) -> list[Any] | None:
        """The symbolic shape; None where the rank or an extent is unknown."""
        value = self.values.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        shape: list[Any] = []
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value"):
                shape.append(int(dim.dim_value))
            else:
                shape.append(self.bound.decide(self.symbols.get(dim.dim_param)))
        return None if None in shape else shape

    def size(self, extent: Any) -> int | None:
        """The number that an extent was fixed to; None where it is not a number."""
        number = sympy.sympify(extent).subs(self._sizes)
        return int(number) if number.is_Integer else None

    def constant(self, node: onnx.NodeProto, index: int) -> list[int] | None:
        """The integers of a constant input; None for anything computed."""
        name = node.input[index] if len(node.input) > index else ""
        if name in self.constants:
            return [int(value) for value in numpy_helper.to_array(self.constants[name]).reshape(-1)]
        producer = self._producers.get(name)
        if producer is not None and producer.op_type == "Constant":
            value = self.contents.get(name)
            return None if value is None else [int(item) for item in np.asarray(value).reshape(-1)]
        return None

    # The nodes.

    def _look_at(self, node: onnx.NodeProto) -> Refusal | None:
        if any(True for _ in subgraphs(node)):
            self._refuse(because("holds a graph of its own"))
        inputs = [self.extents(name) if name else [] for name in node.input]
        shapes = [shape for shape in inputs if shape is not None and all(map(_is_understood, shape))]
        if len(shapes) < len(inputs):
            return because("reads a tensor of unknown shape")
        rule = RULES.get(node.op_type)
        if node.op_type in BROADCASTING:
            return first_refusal([self._refuse_scalars(node, shapes), self.align(node, shapes, 0)])
        if rule is not None:
            return rule(self, node, shapes)
        return self._refuse_pairing(node, shapes) if node.op_type in _PAIRING else None

    def _refuse_pairing(self, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
        if not any(mentions_tokens(extent) for shape in shapes for extent in shape):
            return None
        sizes = set(self._sizes.values()) - {1}
        of_numbers = [name for name, shape in zip(node.input, shapes, strict=True) if sizes & set(shape)]
        if not of_numbers:
            return None
        return because(f"pairs places with those of {of_numbers[0]!r}, whose extents are numbers")

    def _refuse_scalars(self, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
        """A constant equal to the sequence length may have been computed from it (the divisor of a mean)."""
        if node.op_type not in _ARITHMETIC or not any(mentions_tokens(extent) for shape in shapes for extent in shape):
            return None
        for number in filter(None, map(self._scalar, node.input)):
            if any(np.isclose(number, own) for own in (self._sizes[SEQ], 1 / self._sizes[SEQ])):
                return because(f"computes with {number:g}, which may be the sequence length")
        return None

    def _scalar(self, name: str) -> float | None:
        """The value of a constant of one element."""
        producer = self._producers.get(name)
        if producer is not None and producer.op_type in ("Cast", "Identity", "Unsqueeze"):
            return self._scalar(producer.input[0])
        value = self.constants.get(name)
        if producer is not None and producer.op_type == "Constant":
            value = attribute(producer, "value")
        if value is None or int(np.prod(value.dims)) != 1:
            return None
        return float(numpy_helper.to_array(value).reshape(-1)[0])

    def align(self, node: onnx.NodeProto, shapes: Sequence[list[Any]], spared: int) -> Refusal | None:
        """Bring numbers that meet an extent when operands broadcast (but for the last ``spared`` axes) to it."""
        refusals: list[Refusal | None] = []
        rank = max(len(shape) for shape in shapes)
        for index, shape in enumerate(shapes):
            for axis, extent in self.findings.early.get((node.output[0], index), {}).items():
                refusals.append(self.meet(node, index, axis, shape[axis], extent))
                shape[axis] = 1 if extent == BATCH else extent
        for axis in range(spared + 1, rank + 1):
            extents = [shape[-axis] for shape in shapes if len(shape) >= axis]
            symbolic = {extent for extent in extents if mentions_tokens(extent) and not extent.has(sympy.Min)}
            if len(symbolic) > 1:
                refusals.append(because(f"takes {' and '.join(sorted(map(str, symbolic)))} for the same extent"))
            elif symbolic:
                for index, shape in enumerate(shapes):
                    if len(shape) >= axis and isinstance(shape[-axis], int) and shape[-axis] != 1:
                        refusals.append(self.meet(node, index, len(shape) - axis, shape[-axis], next(iter(symbolic))))
        return first_refusal(refusals)

    def meet(self, node: onnx.NodeProto, index: int, axis: int, number: int, extent: Any) -> Refusal | None:
        """Operand ``index`` has a number where the others have ``extent``."""
        name = node.input[index]
        if self._sizes.get(extent) != number:
            return because(f"pairs {name!r} of extent {number} with {extent}")
        if name in self._dependent:
            if self._demand(name, axis, extent):
                return None
            if name not in self._producers:
                return because(
                    f"reads the input {name!r} with the sequence on axis {axis} too; an input of pairs of places "
                    "packs by --pack_args where these axes are open: export the model with dynamic axes",
                    Cause.SAMPLES,
                )
            return because(f"reads {name!r}, whose extent {number} cannot be shown to be {extent}")
        if extent == BATCH and not self._same_along(name, axis):
            return because(f"reads {name!r}, which differs from row to row of the batch", Cause.BATCH)
        self.findings.cuts.setdefault((node.output[0], index), {})[axis] = extent
        value = onnx.ValueInfoProto.FromString(self.values[name].SerializeToString())  # as cut so far
        if extent == BATCH:
            value.type.tensor_type.shape.dim[axis].dim_value = 1
        else:
            value.type.tensor_type.shape.dim[axis].dim_param = str(extent)
        self.lend(self.values, name, value)
        return None

    def _demand(self, name: str, axis: int, extent: Any) -> bool:
        """Find the node that gave ``name`` a number as its extent, and let it give ``extent``."""
        node = self._producers.get(name)
        shape = self.extents(name)
        if node is None or shape is None or name not in self._dependent:
            return False
        inputs = [(index, self.extents(item)) for index, item in enumerate(node.input) if item]
        if node.op_type in ("Expand", "Tile"):
            own = inputs[0][1]
            if own is None:
                return False
            inner = axis - (len(shape) - len(own))
            if inner >= 0 and own[inner] != 1:
                return self._demand(node.input[0], inner, extent)
            key = (node.output[0], axis)
            if key in self.findings.grown:
                return False
            self.findings.grown[key] = extent
            raise RestartError
        if node.op_type in BROADCASTING or node.op_type in _KEEPS_AXES:
            return self._demand_operands(node, inputs, axis - len(shape), extent)
        inner_axis = self._axis_before(node, axis, len(shape))
        return inner_axis is not None and self._demand(node.input[0], inner_axis, extent)

    def _demand_operands(self, node: onnx.NodeProto, inputs: Sequence[Any], from_end: int, extent: Any) -> bool:
        operands = [(index, s) for index, s in inputs if s is not None and len(s) >= -from_end and s[from_end] != 1]
        if node.op_type in BROADCASTING:
            for index, s in operands:
                early_extents = self.findings.early.setdefault((node.output[0], index), {})
                if node.input[index] not in self._dependent and len(s) + from_end not in early_extents:
                    early_extents[len(s) + from_end] = extent
                    raise RestartError
        dependent = [(index, s) for index, s in operands if node.input[index] in self._dependent]
        return bool(dependent) and all(
            self._demand(node.input[index], len(s) + from_end, extent) for index, s in dependent
        )

    def _axis_before(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        """The axis of the first input that becomes ``axis`` of the result, for operators that move axes."""
        if node.op_type == "Transpose":
            perm = attribute(node, "perm")
            return int(perm[axis]) if perm is not None else rank - 1 - axis
        if node.op_type == "Unsqueeze":
            added = attribute(node, "axes") or self.constant(node, 1)
            if added is None:
                return None
            taken = {int(item) % rank for item in added}
            return None if axis in taken else axis - sum(item < axis for item in taken)
        return None


def _name_of(node: onnx.NodeProto) -> NodeName:
    return NodeName(node.op_type, node.name or node.output[0])


def _is_understood(extent: Any) -> bool:
    """Whether an extent is a number, or follows from batch and sequence."""
    return isinstance(extent, int) or not extent.free_symbols - {BATCH, SEQ}


def _is_exact(dim: Any) -> bool:
    """Whether an extent's name mentions batch or sequence, and not as a bound."""
    return isinstance(dim, str) and (str(BATCH) in dim or str(SEQ) in dim) and "Min(" not in dim
