"""What a model's graph tells of its inputs: which tables they index, what they are compared with, where they mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from passes.operators import CONTRIB, Family, members
from poprt.flat_graph import Array, FlatGraph, Step
from poprt.input_trails import Trail, casts_to_bool, walk
from poprt.table_rows import TableShapes


class Clue(Enum):
    """What one use of an input says of its values."""

    ROW = "indexes a table as it is"
    COMPUTED_ROW = "an index is computed from it"
    PLACE = "indexes a tensor of the model's own"
    CONSTANT = "is compared with constants"
    LENGTH = "says how many places of a sequence count"
    POSITION = "its sine is taken, or it picks from such a table"
    COUNT = "says an extent"
    MASK = "is true or false"
    FLAG = "may be true or false"
    QUANTISED = "is a quantised number"
    SETTING = "divides, or is rounded up"


@dataclass
class Clues:
    """The clues to one input.

    Attributes:
        evidence: clue -> the first step that gives it, in words.
        rows: the values that keep within every table: the lowest, and one more than the highest. (0, 0): no table.
        computed_rows: the rows of the smallest table that a computed index goes into.
        constants: what the input is compared with, each once, in order.
    """

    evidence: dict[Clue, str] = field(default_factory=dict)
    rows: tuple[int, int] = (0, 0)
    computed_rows: int = 0
    constants: list[int] = field(default_factory=list)

    def add(self, clue: Clue, reason: str) -> None:
        """Note a clue; of each kind the first one is kept."""
        self.evidence.setdefault(clue, reason)

    def add_table(self, trail: Trail, rows: int, reason: str) -> None:
        """Note a table of so many rows that the values on ``trail`` index."""
        if not trail.exact:
            if not self.computed_rows or rows < self.computed_rows:
                self.computed_rows, self.evidence[Clue.COMPUTED_ROW] = rows, reason
            return
        low, high = trail.bounds(rows)
        if not self.rows[1] or high < self.rows[1]:
            self.evidence[Clue.ROW] = reason
        if self.rows[1]:
            low, high = max(low, self.rows[0]), min(high, self.rows[1])
        self.rows = (min(low, high - 1), high)


#: (domain, operator, index input) -> table input, and the table's axis: a number, or the attribute that says it.
_INDEXING: dict[tuple[str, str, int], tuple[int, str | int]] = {
    ("", "Gather", 1): (0, "axis"),
    ("", "GatherElements", 1): (0, "axis"),
    ("", "GatherND", 1): (0, "batch_dims"),
    ("", "ScatterElements", 1): (0, "axis"),
    ("", "ScatterND", 1): (0, 0),
    ("", "RotaryEmbedding", 3): (1, 0),
    ("ai.onnx.ml", "ArrayFeatureExtractor", 1): (0, -1),
    ("org.pytorch.aten", "ATen", 1): (0, 0),
    (CONTRIB, "ATen", 1): (0, 0),
    (CONTRIB, "GatherND", 1): (0, 0),
    (CONTRIB, "GatherBlockQuantized", 1): (0, "gather_axis"),
    (CONTRIB, "RotaryEmbedding", 1): (2, 0),
    **{
        (CONTRIB, op, index): (table, 0)
        for op in ("EmbedLayerNormalization", "QEmbedLayerNormalization")
        for index, table in ((0, 2), (1, 4))
    },
    (CONTRIB, "EmbedLayerNormalization", 8): (3, 0),
}
_MASKS = {
    ("", "Where"): 0,
    ("", "Compress"): 1,
    ("", "Attention"): 3,
    (CONTRIB, "Attention"): 3,
    (CONTRIB, "QAttention"): 5,
    (CONTRIB, "MultiHeadAttention"): 4,
    (CONTRIB, "DecoderAttention"): 5,
    (CONTRIB, "LongformerAttention"): 2,
    (CONTRIB, "EmbedLayerNormalization"): 7,
    (CONTRIB, "QEmbedLayerNormalization"): 7,
}
_LENGTHS = {
    ("", "LSTM"): (4,),
    ("", "GRU"): (4,),
    ("", "RNN"): (4,),
    ("", "ReverseSequence"): (1,),
    ("", "Range"): (1,),
    (CONTRIB, "RemovePadding"): (1,),
}
_COUNTS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "ConstantOfShape": (0,),
    "Range": (0, 2),
    "Slice": (1, 2, 4),
    "TopK": (1,),
    "Pad": (1,),
    "Split": (1,),
    "Resize": (3,),
    "Loop": (0,),
}
_LOGIC = members(Family.LOGIC)
_COMPARISONS = members(Family.COMPARISON)
_TOGETHER = frozenset({"CumSum", "ReduceSum", "ReduceMax", "ReduceMin", "ArgMax", "ArgMin"})
_ROUNDING = members(Family.POWER, Family.ROUNDING) | {"Log"}
_KEEPS_ORDER = members(Family.ORDER, Family.AXES, Family.REPEAT, Family.CUT, Family.CONVERSION) | (
    members(Family.ARITHMETIC) - {"Div"}
)
_FEWEST_PENALTY = -1000  # a number below is added to scores to hide them


def find_clues(flat: FlatGraph, ranks: dict[str, int | None]) -> dict[str, Clues]:
    """The clues to each input of ``flat``.

    Args:
        flat: the model.
        ranks: the declared rank of each input, None where it has none.
    """
    graph = _Knowledge(flat)
    clues = {name: Clues() for name in flat.inputs}
    for name, own in clues.items():
        for trail, step, index in walk(flat, Trail(name, ranks.get(name))):
            for look in _LOOKS:
                look(own, trail, step, index, graph)
    return clues


class _Knowledge:
    """What is asked of a graph again and again."""

    def __init__(self, flat: FlatGraph) -> None:
        self.flat, self.tables = flat, TableShapes(flat)
        self.counted = set(_counted(flat))

    def whole_constants(self, name: str) -> list[int] | None:
        """The values of a small constant that holds whole numbers; None of anything else."""
        values = self.flat.values(name)
        if values is None or values.dtype.kind not in "biuf" or not 0 < values.size <= 64:
            return None
        whole: list[int] = [int(value) for value in values.reshape(-1) if np.isfinite(value) and value == int(value)]
        return whole if len(whole) == values.size else None


def _counted(flat: FlatGraph) -> Iterator[str]:
    """Tensors that hold 0, 1, 2 ... along an axis, however they are laid out."""
    counted = {name for name in flat.constants if _counts_up(flat.values(name))}
    filled: set[str] = set()
    for step in flat.steps:
        domain, op = step.op
        first = step.read(0)
        if domain == "" and op == "ConstantOfShape":
            filled.update(step.outputs)
        counts = op == "Range" or (op in ("NonZero", "CumSum") and first in filled)
        if domain == "" and (counts or (op in _KEEPS_ORDER and first in counted)):
            counted.update(step.outputs)
    return iter(counted)


def _counts_up(values: Array | None) -> bool:
    if values is None or values.dtype.kind not in "iuf" or values.size < 2:
        return False
    flat = values.reshape(-1)
    return bool(np.array_equal(flat, np.arange(flat.size)))


_Look = Callable[[Clues, Trail, Step, int, _Knowledge], None]


def _look_for_table(clues: Clues, trail: Trail, step: Step, index: int, graph: _Knowledge) -> None:
    if step.op == ("", "OneHot") and index == 0:
        depth = graph.whole_constants(step.read(1))
        if depth:
            clues.add_table(trail, depth[0], f"places of {step}")
        return
    if (*step.op, index) not in _INDEXING:
        return
    table, along = _INDEXING[(*step.op, index)]
    axis = int(step.attribute(along, 0)) if isinstance(along, str) else along
    rows = graph.tables.rows(step.read(table), axis)
    if rows:
        clues.add_table(trail, rows, f"rows of {graph.tables.table(step.read(table))!r} ({step})")
    elif step.read(table):
        clues.add(Clue.PLACE, f"places of a tensor that is computed ({step})")
    if step.node.op_type == "RotaryEmbedding":
        clues.add(Clue.POSITION, f"picked by {step}")


def _look_for_comparison(clues: Clues, trail: Trail, step: Step, index: int, graph: _Knowledge) -> None:
    if step.op[0] or step.node.op_type not in _COMPARISONS:
        return
    other = step.read(1 - index)
    if other in graph.counted:
        _compared_with_count(clues, trail, step, other, graph)
        return
    constants = graph.whole_constants(other)
    if constants is None or not trail.exact:
        return
    for value in constants:
        original = (value - trail.shift[0]) // trail.scale
        if original not in clues.constants:
            clues.constants.append(original)
    clues.add(Clue.CONSTANT, f"{step} compares it with {', '.join(map(str, constants[:4]))}")
    if set(constants) <= {0, 1}:
        clues.add(Clue.FLAG, f"a mask: {step} compares it with {constants[0]}")


def _compared_with_count(clues: Clues, trail: Trail, step: Step, count: str, graph: _Knowledge) -> None:
    """A number that is one of 0, 1, 2 ... is made one-hot; one that is above some of them is a length."""
    if step.node.op_type != "Equal":
        clues.add(Clue.LENGTH, f"{step} compares it with 0, 1, 2 ...")
        return
    places = [extent for extent in graph.tables.constant(count) or () if isinstance(extent, int)]
    if places:
        clues.add_table(trail, max(places), f"places of a one-hot ({step})")
    else:
        clues.add(Clue.PLACE, f"made one-hot ({step})")


def _look_for_mask(clues: Clues, trail: Trail, step: Step, index: int, graph: _Knowledge) -> None:
    op = step.node.op_type
    if _MASKS.get(step.op) == index:
        one_a_sample = step.op[0] == CONTRIB and trail.rank == 1
        clues.add(Clue.LENGTH if one_a_sample else Clue.MASK, f"{'lengths' if one_a_sample else 'a mask'} of {step}")
    if step.op[0]:
        return
    if trail.exact and (casts_to_bool(step) or op in _LOGIC):
        clues.add(Clue.MASK, f"a mask: {step} takes it for true or false")
    elif trail.complement and op == "Mul" and _hides(graph.flat.values(step.read(1 - index))):
        clues.add(Clue.MASK, f"a mask: 1 minus it hides scores ({step})")
    elif op == "Sub" and index == 1 and trail.exact and graph.whole_constants(step.read(0)) == [1]:
        clues.add(Clue.FLAG, f"a mask: {step} subtracts it from 1")
    elif op == "Mul" and trail.exact and step.read(1 - index) not in graph.flat.constants:
        clues.add(Clue.FLAG, f"a mask: {step} multiplies with it")
    elif trail.exact and op in _TOGETHER and index == 0:
        clues.add(
            Clue.FLAG,
            f"a mask: {step} adds it up" if "Sum" in op else f"a mask: {step} looks for its largest or smallest",
        )


def _hides(values: Array | None) -> bool:
    return values is not None and values.size == 1 and float(values.reshape(-1)[0]) <= _FEWEST_PENALTY


def _look_for_extent(clues: Clues, _: Trail, step: Step, index: int, graph: _Knowledge) -> None:
    if index in _LENGTHS.get(step.op, ()):
        clues.add(Clue.LENGTH, f"{step} takes it for a length")
    elif step.op[0] == "" and index in _COUNTS.get(step.node.op_type, ()):
        clues.add(Clue.COUNT, f"{step} takes it for an extent")


def _look_for_number(clues: Clues, trail: Trail, step: Step, index: int, graph: _Knowledge) -> None:
    op = step.node.op_type
    if op == "DequantizeLinear" and index == 0 and trail.exact:
        clues.add(Clue.QUANTISED, f"{step} makes a number of it")
    if step.op[0]:
        return
    if op in ("Sin", "Cos"):
        clues.add(Clue.POSITION, f"{step} is taken of it")
    if op in _ROUNDING or (op == "Div" and index == 1):
        clues.add(Clue.SETTING, f"{step} reads it")


_LOOKS: tuple[_Look, ...] = (
    _look_for_table,
    _look_for_comparison,
    _look_for_mask,
    _look_for_extent,
    _look_for_number,
)
