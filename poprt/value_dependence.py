"""Which outputs of a model have extents that depend on values, and which hold random numbers.

Two right models may differ in these: a rounding more or less is a frame more or less, and random numbers are others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from passes.operators import Family, members
from poprt.flat_graph import FlatGraph, Step, flatten

#: Operators whose results have as many places as values are found.
_FINDING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"})
#: Operators: the inputs that say extents of the result.
_SAYING = {
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "If": (0,),
    "Loop": (0, 1),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
_EXTENTS = members(Family.EXTENT)
_RANDOM = members(Family.RANDOM)
_SWEEPS = 2  # what goes round in a loop comes back to its start


@dataclass(frozen=True)
class Dependence:
    """What decides an output beside the shapes of the inputs.

    Attributes:
        extents: the step that makes an extent of values, "" where none does.
        chance: the step that draws random numbers without a seed, "" where none does.
    """

    extents: str = ""
    chance: str = ""


def dependences(model: onnx.ModelProto) -> dict[str, Dependence]:
    """What decides each output of ``model``."""
    flat = flatten(model)
    marks = _Marks(flat)
    for _ in range(_SWEEPS):
        for step in flat.steps:
            marks.read(step)
    outputs = [value.name for value in model.graph.output]
    return {name: Dependence(marks.extents.get(name, ""), marks.chance.get(name, "")) for name in outputs}


class _Marks:
    """What is known of the tensors so far.

    Attributes:
        valued: tensors whose values depend on values of the inputs, or on chance.
        extents, chance: tensor -> the step that decides its extents, or draws its values.
    """

    def __init__(self, flat: FlatGraph) -> None:
        self.valued: set[str] = set(flat.inputs)
        self.extents: dict[str, str] = {}
        self.chance: dict[str, str] = {}

    def read(self, step: Step) -> None:
        """Mark the results of one step."""
        domain, op = step.op
        extents = self._first(self.extents, step.inputs)
        if domain == "" and op in _EXTENTS:  # of what it reads, it has the extents alone
            chance = self._first(self.chance, step.inputs) if extents else ""
            self._mark(step, valued=bool(extents), extents="", chance=chance)
            return
        drawn = domain == "" and op in _RANDOM
        valued = drawn or any(name in self.valued for name in step.inputs)
        saying = range(len(step.inputs)) if op in _FINDING else _SAYING.get(op, ())
        if domain == "" and not extents and any(step.read(index) in self.valued for index in saying):
            extents = str(step)
        chance = str(step) if drawn and step.attribute("seed") is None else self._first(self.chance, step.inputs)
        self._mark(step, valued=valued, extents=extents, chance=chance)

    def _mark(self, step: Step, *, valued: bool, extents: str, chance: str) -> None:
        for name in filter(None, step.outputs):
            if valued:
                self.valued.add(name)
            if extents:
                self.extents.setdefault(name, extents)
            if chance:
                self.chance.setdefault(name, chance)

    @staticmethod
    def _first(marks: dict[str, str], names: Iterable[str]) -> str:
        return next((marks[name] for name in names if name in marks), "")
