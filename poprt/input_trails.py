"""Follow what an input feeds: where its values go unchanged, shifted or computed with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx

from passes.operators import ELEMENTWISE, Family, members
from passes.ops import DOMAIN
from poprt.flat_graph import FlatGraph, Step

#: Operators that hand on values of their first input.
_FIRST = members(Family.ORDER, Family.AXES, Family.REPEAT, Family.CUT, Family.PICK, Family.CONVERSION) | {
    "Abs",
    "Compress",
    "Dropout",
    "Pad",
    "ReduceMax",
    "ReduceMin",
    "Relu",
    "TopK",
    "Trilu",
    "Unique",
}
#: Others: the inputs whose values they hand on.
_HANDED = {"Where": (1, 2), "ScatterElements": (0, 2), "ScatterND": (0, 2)}
_CLAMPS = members(Family.CLAMP)
_SHIFTING = (members(Family.ARITHMETIC) - {"Div"}) | {"Mod"} | _CLAMPS
_PRODUCTS = members(Family.PRODUCT) - {"Conv"}
#: So many steps of arithmetic are followed; in a deep network everything comes from everything.
_MOST_HOPS = 12
#: Further from zero no constant is an offset of indices.
_LARGEST_SHIFT = 1 << 31


@dataclass(frozen=True)
class Trail:
    """How a tensor's values come from an input.

    Attributes:
        source: the input.
        rank: the input's declared rank; None where it has none.
        scale, shift: the values are ``input * scale + s``, with s anywhere between the two numbers of ``shift``.
        least: the lowest value of the input that the model means; below 0 where it clips at a lower one.
        exact: whether that holds. Else the values are computed from the input in another way.
        hops: steps of arithmetic since it last held.
        complement: the values are 1 - input.
    """

    source: str
    rank: int | None = None
    scale: int = 1
    shift: tuple[int, int] = (0, 0)
    least: int = 0
    exact: bool = True
    hops: int = 0
    complement: bool = False

    def bounds(self, rows: int) -> tuple[int, int]:
        """The values of the input that index one of ``rows`` rows: the lowest one, and one more than the highest."""
        low = max(self.least, -(self.shift[0] // self.scale))
        return low, max(low + 1, -((self.shift[1] - rows) // self.scale))


def walk(flat: FlatGraph, trail: Trail) -> Iterator[tuple[Trail, Step, int]]:
    """Each place where ``trail`` and what comes of it is read: how the values come there, the step, and its input."""
    waiting, seen = deque([(trail.source, trail)]), {(trail.source, True)}
    while waiting:
        name, here = waiting.popleft()
        for step, index in flat.readers.get(name, ()):
            yield here, step, index
            after = follow(here, step, index, flat)
            for output in step.outputs if after is not None else ():
                if after is not None and output and (output, after.exact) not in seen:
                    seen.add((output, after.exact))
                    waiting.append((output, after))


def follow(trail: Trail, step: Step, index: int, flat: FlatGraph) -> Trail | None:
    """What the results of ``step`` hold of the input, where its operand ``index`` is on the trail; None for nothing."""
    domain, op = step.op
    if domain:
        return trail if domain == DOMAIN and index == 0 else None
    if op in _HANDED:
        return trail if index in _HANDED[op] else None
    if op == "Concat":
        return trail
    if op in _FIRST:
        return trail if index == 0 and not casts_to_bool(step) else None
    if op in _SHIFTING and trail.exact:
        return _shifted(trail, step, index, flat)
    if op in _PRODUCTS or (op in ELEMENTWISE and op not in members(Family.COMPARISON)):
        return _computed(trail, step, index, flat)
    return None


def casts_to_bool(step: Step) -> bool:
    """Whether a step makes true or false of its values."""
    return step.op == ("", "Cast") and step.attribute("to") == onnx.TensorProto.BOOL


def _shifted(trail: Trail, step: Step, index: int, flat: FlatGraph) -> Trail | None:
    op = step.node.op_type
    if op in _CLAMPS:
        return _clipped(trail, step, index, flat)
    other = flat.values(step.read(1 - index))
    if other is None or other.size == 0 or other.dtype.kind not in "biuf" or not np.isfinite(other).all():
        return _computed(trail, step, index, flat)
    low, high = int(np.floor(other.min())), int(np.ceil(other.max()))
    if max(-low, high) > _LARGEST_SHIFT:
        return _computed(trail, step, index, flat)
    if op == "Add":
        return replace(trail, shift=(trail.shift[0] + low, trail.shift[1] + high))
    if op == "Sub" and index == 0:
        return replace(trail, shift=(trail.shift[0] - high, trail.shift[1] - low))
    if op == "Mod" and index == 0:
        return Trail(trail.source, trail.rank)
    if op == "Mul" and low == high >= 1 and float(other.min()) == low:
        return replace(trail, scale=trail.scale * low, shift=(trail.shift[0] * low, trail.shift[1] * low))
    after = _computed(trail, step, index, flat)
    return replace(after, complement=op == "Sub" and low == high == 1) if after is not None else None


def _clipped(trail: Trail, step: Step, index: int, flat: FlatGraph) -> Trail | None:
    """Values within bounds are handed on. A lower bound below zero says that negative values are meant."""
    if step.node.op_type == "Clip" and index:
        return None
    if step.node.op_type == "Min":
        return trail
    bound = flat.values(step.read(1 - index))
    lowest = float(step.attribute("min", 0.0)) if bound is None or bound.size == 0 else float(bound.min())
    if not -_LARGEST_SHIFT < lowest < _LARGEST_SHIFT:
        return trail
    return replace(trail, least=min(trail.least, (int(lowest) - trail.shift[1]) // trail.scale))


def _computed(trail: Trail, step: Step, index: int, flat: FlatGraph) -> Trail | None:
    """Values that are computed with. A mask is multiplied with the network's own numbers: these are not its values."""
    own = len(step.inputs) == 1 or step.read(1 - index) in flat.constants
    if step.node.op_type == "Mul" and not own and (trail.rank or 0) > 1:
        return None
    hops = trail.hops + (_MOST_HOPS - 3 if step.node.op_type in _PRODUCTS else 1)
    return replace(trail, exact=False, hops=hops, complement=False) if hops <= _MOST_HOPS else None
