"""Make a model whose batch and sequence were fixed hold for any shape again, as far as that can be shown.

Exports with fixed shapes, and models that went through ``const_input_shape`` and ``trace_folding``, hold the batch size
and the sequence length as numbers: in targets of Reshape and Expand, in tables cut to the sequence length. What each
number stands for follows from the data flow (:mod:`passes.packing.opening.baked_inference`): a Reshape keeps the order
of its elements, and an operand that broadcasts against tokens has their extents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import sympy

from passes.building import add_node
from passes.errors import PackingError, RewriteError
from passes.graph_io import export_weightless
from passes.packing.opening.baked_inference import THE_MODEL, BakedInference, Findings, RestartError
from passes.packing.opening.geometry import Geometry
from passes.packing.opening.length_bound import LengthBound
from passes.packing.opening.pack_args import PackArgs
from passes.packing.opening.room import Room
from passes.packing.tokens.axes import BATCH, SEQ, input_dependent, is_known, show
from passes.packing.tokens.extents import Extents
from passes.refusal import MOST_NAMED, Cause, Refusal, because
from passes.shapes.contents import LARGEST_VALUE_READ
from passes.shapes.symbolic import SymbolicShapes, assume, infer_symbolic_shapes

#: Stand in for extents that are open: primes, so that no constant of the model is taken for one.
_OPEN_BATCH, _OPEN_SEQ = 7919, 6007
_MOST_WALKS = 50

logger = logging.getLogger("poprt")


#: Causes that no other shape would mend.
_NOT_THE_SHAPE = {
    Cause.BATCH: "a sample's answer depends on its row in the batch, so it cannot be packed",
    Cause.SAMPLES: "packing takes inputs [batch, sequence, ...] of one value a token",
}


@dataclass(frozen=True)
class Unbaked:
    """What became of a model's baked extents.

    Attributes:
        changes: nodes that now read the actual extents.
        refusals: why the model holds for its declared shapes alone; empty where it holds for any.
        longest: the longest sequence that its tables have room for; None where none was cut from a fixed length.
        rows, columns: the extents that the model itself declares; 0 where they are open.
        room: the node that has room for the fewest tokens; None where that is no reason to refuse anything.
    """

    changes: int = 0
    refusals: tuple[Refusal, ...] = ()
    longest: int | None = None
    rows: int = 0
    columns: int = 0
    room: Room | None = None

    def then(self, later: Unbaked) -> Unbaked:
        """This and what a second look made of the same graph."""
        return replace(later, changes=self.changes + later.changes, longest=self.longest or later.longest)

    def check(self, args: PackArgs, attempt: Callable[[PackArgs], object]) -> None:
        """Refuse packs of other shapes than those that the model was fixed to.

        Args:
            args: the packs.
            attempt: packs the same model in other packs; they are advised where it raises no RewriteError.

        Raises:
            PackingError: the model does not hold for ``max_valid_num`` samples of ``segment_max_size`` tokens.
        """
        args.check_room(self.room)
        for cause, what in _NOT_THE_SHAPE.items():
            first = next((refusal for refusal in self.refusals if refusal.cause is cause), None)
            if first is not None:
                raise PackingError(f"{what}: {_named(str(first))}", [first])
        if self.refusals and not self._holds_for(args.max_valid_num, args.width):
            raise PackingError(
                f"this model was fixed to {self._fixed_to()}, which cannot be undone "
                f"({_as_clauses(self.refusals[:MOST_NAMED])}); {self._advice(args, attempt)}",
                self.refusals,
            )
        if self.longest is not None and args.width > self.longest:
            raise PackingError(
                f"this model was fixed to sequences of {self.longest} tokens; segment_max_size={args.sizes} is longer"
            )

    def _holds_for(self, samples: int, width: int) -> bool:
        return self.rows in (0, samples) and self.columns in (0, width)

    def _fixed_to(self) -> str:
        if not self.rows:
            return f"sequences of {self.columns} tokens"
        if not self.columns:
            return f"a batch of {self.rows}"
        return f"the shape [{self.rows}, {self.columns}]"

    def _advice(self, args: PackArgs, attempt: Callable[[PackArgs], object]) -> str:
        """What the user may do. The model's own shape is named only where it packs; a batch of one cannot be packed."""
        export = "export it with dynamic axes"
        if self.rows == 1:
            return export
        own = replace(
            args,
            max_valid_num=self.rows or args.max_valid_num,
            segment_max_size=(self.columns,) if self.columns else args.segment_max_size,
        )
        try:
            attempt(own)
        except RewriteError as error:
            return f"nor does it pack in its own shape: {error}"
        samples = f" max_valid_num={self.rows}" if self.rows else ""
        return f"{export}, or use{samples}" + (f" segment_max_size={self.columns}" if self.columns else "")


def unbake(graph: gs.Graph, geometry: Geometry, bound: LengthBound) -> Unbaked:
    """Change ``graph``, whose nodes must be in topological order, in place, for sequences within ``bound``.

    Does nothing to a model with variable extents. Where something cannot be shown, nothing is changed.
    """
    if geometry.shape_agnostic:
        return Unbaked()
    rows, columns = geometry.fixed
    unbaked = Unbaked(rows=rows, columns=columns)
    sizes = {BATCH: rows or _OPEN_BATCH, SEQ: columns or _OPEN_SEQ}
    if any(tensor.shape[:2] != geometry.inputs[0].shape[:2] for tensor in geometry.inputs):
        return replace(unbaked, refusals=(because("its inputs declare different shapes"),))
    findings = _walk(graph, geometry, sizes, bound)
    if findings.refusals:
        refusals = tuple(findings.refusals.values())
        logger.debug("baked extents stay: %s", _as_clauses(refusals))
        room = min(findings.rooms, key=lambda item: item.places, default=None)
        return replace(unbaked, refusals=refusals, room=room)
    before = infer_symbolic_shapes(graph)
    cuts = any(extent == SEQ for axes in findings.cuts.values() for extent in axes.values())
    count = _Changes(graph, geometry).apply(findings)
    _check_shapes(before, infer_symbolic_shapes(graph, geometry.symbolic_shapes()), sizes)
    return replace(unbaked, changes=count, longest=sizes[SEQ] if cuts else None)


def _as_clauses(refusals: Sequence[Refusal]) -> str:
    """Refusals as parts of a sentence: each node, where one is meant, is the subject of its reason."""
    return _named("; ".join(f"{item.node} {item.reason}" if item.node else item.reason for item in refusals))


def _named(text: str) -> str:
    """``text`` with the words that people use for batch and sequence."""
    return text.replace(str(BATCH), "batch").replace(str(SEQ), "seq")


def _walk(graph: gs.Graph, geometry: Geometry, sizes: dict[Any, int], bound: LengthBound) -> Findings:
    assumed = geometry.symbolic_shapes()
    model = export_weightless(graph, LARGEST_VALUE_READ)
    for value in model.graph.input:
        if value.name in assumed:
            assume(value, assumed[value.name])
    dependent, constants = input_dependent(graph), _Constants(graph)
    grown: dict[tuple[str, int], Any] = {}
    early: dict[tuple[str, int], dict[int, Any]] = {}
    for _ in range(_MOST_WALKS):
        findings = Findings(grown=grown, early=early)
        inference = BakedInference(model, sizes, dependent, constants.same, findings, bound)
        try:
            inference.walk()
        except RestartError:
            continue
        except Exception as error:  # inference reports what it does not know by failed assertions of every kind
            reason = f"has shapes that cannot be inferred ({type(error).__name__}: {error})"
            findings.refuse(THE_MODEL, because(reason))
        return findings
    findings = Findings()
    findings.refuse(THE_MODEL, because("has too many constants of unclear extent"))
    return findings


def _check_shapes(before: SymbolicShapes, after: SymbolicShapes, sizes: dict[Any, int]) -> None:
    """Raise PackingError where a tensor would not have its declared shape any more at the declared extents."""
    for name, shape in before.items():
        now = after.get(name)
        if now is None:
            continue
        at_declared = [sympy.sympify(extent).subs(sizes) for extent in now]
        pairs = [
            (one, other) for one, other in zip(shape, at_declared, strict=False) if is_known(one) and is_known(other)
        ]
        if len(shape) != len(at_declared) or any(one != other for one, other in pairs):
            raise PackingError(
                f"the shape {show(shape)} of {name!r} cannot be made to follow the inputs: it would be {show(now)}; "
                "export the model with dynamic axes"
            )


class _Constants:
    """Tells whether constants are the same along an axis."""

    def __init__(self, graph: gs.Graph) -> None:
        self._tensors = graph.tensors()

    def same(self, name: str, axis: int) -> bool:
        return self._same(self._tensors[name], axis)

    def _same(self, tensor: gs.Tensor, axis: int) -> bool:
        if isinstance(tensor, gs.Constant):
            values = np.asarray(tensor.values)
            first = np.take(values, [0], axis=axis)
            return bool(((values == first) | ((values != values) & (first != first))).all())
        node = tensor.inputs[0] if tensor.inputs else None
        if node is not None and node.op == "Gather" and int(node.attrs.get("axis", 0)) == 0:
            return axis < len(node.inputs[1].shape or ()) and self._same(node.inputs[1], axis)
        if node is not None and node.op in ("Cast", "Identity"):
            return self._same(node.inputs[0], axis)
        return False


class _Changes:
    """Carries out what was found."""

    def __init__(self, graph: gs.Graph, geometry: Geometry) -> None:
        self._graph = graph
        self._extents = Extents(graph, lambda: geometry.inputs[0], "actual_extent")
        self._cut: dict[tuple[str, tuple[Any, ...]], gs.Tensor] = {}

    def apply(self, findings: Findings) -> int:
        """Rewire the graph; returns how many nodes changed."""
        changed = 0
        for node in list(self._graph.nodes):
            name = node.outputs[0].name if node.outputs else ""
            before = list(node.inputs)
            if name in findings.targets:
                node.inputs[1] = self._extents.vector(findings.targets[name])
                node.attrs.pop("allowzero", None)
            if name in findings.whole:
                node.inputs[2] = self._extents.constant(findings.whole[name])
            for index, tensor in enumerate(before):
                axes = findings.cuts.get((name, index))
                if axes:
                    node.inputs[index] = self._cut_to(tensor, axes)
            changed += any(old is not new for old, new in zip(before, node.inputs, strict=True))
        if changed:
            self._graph.toposort(mode="nodes")
        return changed

    def _cut_to(self, tensor: gs.Tensor, axes: dict[int, Any]) -> gs.Tensor:
        """The first places of a constant along ``axes``, one row of the batch: [4, 24, H] -> [1, S, H]."""
        key = (tensor.name, tuple(sorted(axes.items())))
        if key not in self._cut:
            where = sorted(axes)
            ends = self._extents.vector([1 if axes[axis] == BATCH else axes[axis] for axis in where])
            starts = self._extents.constant([0] * len(where))
            name = f"{tensor.name}_cut_{len(self._cut)}"
            inputs = [tensor, starts, ends, self._extents.constant(where)]
            self._cut[key] = add_node(self._graph.nodes, "Slice", name, inputs, tensor.dtype)
        return self._cut[key]
