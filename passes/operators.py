"""What is known of operators whatever their attributes and the model: one table, and the sets that follow from it.

Rules (what a pass makes of an operator) stand with the passes; what they share stands here. A test holds the table
against onnx's schemas and reference implementation.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

import onnx

#: The domain of onnxruntime's own operators.
CONTRIB = "com.microsoft"


class Family(enum.Enum):
    """What sort of work an operator does, as far as passes ask for it."""

    ARITHMETIC = "adds, subtracts, multiplies or divides"
    POWER = "raises to a power"
    SIGN = "changes the sign alone"
    CLAMP = "keeps values within bounds"
    COMPARISON = "compares"
    LOGIC = "combines truth values"
    ROUNDING = "makes whole numbers of fractions"
    SATURATION = "comes to rest far below zero, whatever the number is"
    CONVERSION = "changes the type alone"
    QUANTISATION = "rounds to whole numbers by a scale and a zero point, or gives back the numbers that these stand for"
    ORDER = "[a, b] -> [a * b]: keeps each value and their row-major order"
    AXES = "[a, b] -> [b, a]: keeps each value, moves axes"
    REPEAT = "[a, 1] -> [a, b]: repeats values"
    CUT = "[a, b] -> [a, b - 1]: takes a range"
    PICK = "[a, b], [n] -> [n, b]: takes places that an index names"
    JOIN = "[a, b], [a, c] -> [a, b + c]: lays values side by side"
    REDUCTION = "[a, b] -> [a, 1]: makes one number of all along an axis"
    PRODUCT = "[a, b], [b, c] -> [a, c]: sums products of floats"
    EXTENT = "reads the shape alone, no value"
    RANDOM = "draws numbers"


@dataclass(frozen=True)
class OperatorFacts:
    """What holds of an operator in every model.

    Attributes:
        since: the first opset of its domain that has it.
        family: what sort of work it does.
        elementwise: each place of the result is computed from the same place of the operands.
        first_alone: only the first operand is read by place; the others say how, once for all places.
        broadcasts: the opset from which its operands broadcast as numpy's do; None where it has one, or they never do.
        keeps_zero: zero where the first operand is, whatever numbers the others hold and whatever the attributes are.
        partial: some finite operands give NaN or infinity, beyond overflow.
        bounds: between what every result lies.
        whole: takes whole numbers or truth values, and gives such.
        argued: the inputs after the first say how, not what: a shape, axes, a count.
        shape_input: the index of the input that holds the result's shape.
    """

    since: int = 1
    family: Family | None = None
    elementwise: bool = False
    first_alone: bool = False
    broadcasts: int | None = None
    keeps_zero: bool = False
    partial: bool = False
    bounds: tuple[float, float] | None = None
    whole: bool = False
    argued: bool = False
    shape_input: int | None = None


_each = partial(OperatorFacts, elementwise=True)
_pairs = partial(OperatorFacts, elementwise=True, broadcasts=7)
_compares = partial(_pairs, family=Family.COMPARISON, whole=True)
_order = partial(OperatorFacts, family=Family.ORDER, argued=True)
_reduces = partial(OperatorFacts, family=Family.REDUCTION)

_STANDARD: Mapping[str, OperatorFacts] = {
    # Arithmetic.
    "Add": _pairs(family=Family.ARITHMETIC, whole=True),
    "Sub": _pairs(family=Family.ARITHMETIC, whole=True),
    "Mul": _pairs(family=Family.ARITHMETIC, whole=True, keeps_zero=True),
    "Div": _pairs(family=Family.ARITHMETIC, whole=True, partial=True),
    "Mod": _pairs(10, broadcasts=10, whole=True, partial=True),
    "Pow": _pairs(family=Family.POWER, partial=True),
    "Sum": _pairs(broadcasts=8),
    "Mean": _pairs(broadcasts=8),
    "Max": _pairs(family=Family.CLAMP, broadcasts=8, whole=True),
    "Min": _pairs(family=Family.CLAMP, broadcasts=8, whole=True),
    "Clip": _each(family=Family.CLAMP, first_alone=True, whole=True),
    "Abs": _each(family=Family.SIGN, whole=True, keeps_zero=True),
    "Neg": _each(family=Family.SIGN, whole=True, keeps_zero=True),
    "Sign": _each(9, whole=True, keeps_zero=True, bounds=(-1, 1)),
    "Ceil": _each(family=Family.ROUNDING, keeps_zero=True),
    "Floor": _each(family=Family.ROUNDING, keeps_zero=True),
    "Round": _each(11, family=Family.ROUNDING, keeps_zero=True),
    # Truth and bits.
    "Equal": _compares(),
    "Greater": _compares(),
    "GreaterOrEqual": _compares(12, broadcasts=12),
    "Less": _compares(),
    "LessOrEqual": _compares(12, broadcasts=12),
    "And": _pairs(family=Family.LOGIC, whole=True, keeps_zero=True),
    "Or": _pairs(family=Family.LOGIC, whole=True),
    "Xor": _pairs(family=Family.LOGIC, whole=True),
    "Not": _each(family=Family.LOGIC, whole=True),
    "Where": _pairs(9, broadcasts=9, whole=True),
    "IsInf": _each(10),
    "IsNaN": _each(9),
    "BitShift": _pairs(11, broadcasts=11, keeps_zero=True),
    "BitwiseAnd": _pairs(18, broadcasts=18, whole=True, keeps_zero=True),
    "BitwiseNot": _each(18, whole=True),
    "BitwiseOr": _pairs(18, broadcasts=18, whole=True),
    "BitwiseXor": _pairs(18, broadcasts=18, whole=True),
    # Functions of one number.
    "Acos": _each(7, partial=True),
    "Acosh": _each(9, partial=True),
    "Asin": _each(7, partial=True, keeps_zero=True),
    "Asinh": _each(9, keeps_zero=True),
    "Atan": _each(7, keeps_zero=True),
    "Atanh": _each(9, partial=True, keeps_zero=True),
    "Cos": _each(7, bounds=(-1, 1)),
    "Cosh": _each(9),
    "Erf": _each(9, family=Family.SATURATION, keeps_zero=True, bounds=(-1, 1)),
    "Exp": _each(family=Family.SATURATION),
    "Log": _each(partial=True),
    "Reciprocal": _each(family=Family.POWER, partial=True),
    "Sin": _each(7, keeps_zero=True, bounds=(-1, 1)),
    "Sinh": _each(9, keeps_zero=True),
    "Sqrt": _each(family=Family.POWER, partial=True, keeps_zero=True),
    "Tan": _each(7, keeps_zero=True),
    "Tanh": _each(family=Family.SATURATION, keeps_zero=True, bounds=(-1, 1)),
    # Activations.
    "Celu": _each(12, keeps_zero=True),
    "Elu": _each(keeps_zero=True),
    "Gelu": _each(20, keeps_zero=True),
    "HardSigmoid": _each(family=Family.SATURATION, bounds=(0, 1)),
    "HardSwish": _each(14, keeps_zero=True),
    "LeakyRelu": _each(keeps_zero=True),
    "Mish": _each(18, keeps_zero=True),
    "PRelu": _pairs(keeps_zero=True),
    "Relu": _each(keeps_zero=True),
    "Selu": _each(keeps_zero=True),
    "Shrink": _each(9),  # zero gives the bias where lambd is negative
    "Sigmoid": _each(family=Family.SATURATION, bounds=(0, 1)),
    "Softplus": _each(),
    "Softsign": _each(family=Family.SATURATION, keeps_zero=True, bounds=(-1, 1)),
    "Swish": _each(24, keeps_zero=True),
    "ThresholdedRelu": _each(10, keeps_zero=True),
    # What keeps its values.
    "Cast": _each(family=Family.CONVERSION, keeps_zero=True),
    "CastLike": _each(15, family=Family.CONVERSION, first_alone=True, keeps_zero=True),
    "DequantizeLinear": OperatorFacts(10, family=Family.QUANTISATION),
    "QuantizeLinear": OperatorFacts(10, family=Family.QUANTISATION),
    "Identity": _each(family=Family.ORDER, keeps_zero=True),
    "Flatten": _order(),
    "Reshape": _order(shape_input=1),
    "Squeeze": _order(),
    "Unsqueeze": _order(),
    "Transpose": OperatorFacts(family=Family.AXES),
    "Expand": OperatorFacts(8, family=Family.REPEAT, argued=True, shape_input=1),
    "Tile": OperatorFacts(family=Family.REPEAT, argued=True),
    "Slice": OperatorFacts(family=Family.CUT, argued=True),
    "Split": OperatorFacts(family=Family.CUT, argued=True),
    "Gather": OperatorFacts(family=Family.PICK),
    "GatherElements": OperatorFacts(11, family=Family.PICK),
    "GatherND": OperatorFacts(11, family=Family.PICK),
    "Concat": OperatorFacts(family=Family.JOIN),
    "Pad": OperatorFacts(argued=True),
    "Resize": OperatorFacts(10, argued=True),
    "TopK": OperatorFacts(argued=True),
    # What looks along an axis.
    "ReduceL1": _reduces(bounds=(0, inf)),
    "ReduceL2": _reduces(bounds=(0, inf)),
    "ReduceLogSum": _reduces(),
    "ReduceLogSumExp": _reduces(),
    "ReduceMax": _reduces(),
    "ReduceMean": _reduces(),
    "ReduceMin": _reduces(),
    "ReduceProd": _reduces(),
    "ReduceSum": _reduces(),
    "ReduceSumSquare": _reduces(bounds=(0, inf)),
    "Conv": OperatorFacts(family=Family.PRODUCT),
    "Einsum": OperatorFacts(12, family=Family.PRODUCT),
    "Gemm": OperatorFacts(family=Family.PRODUCT),
    "MatMul": OperatorFacts(family=Family.PRODUCT),
    # What reads no value.
    "ConstantOfShape": OperatorFacts(9, shape_input=0),
    "Shape": OperatorFacts(family=Family.EXTENT),
    "Size": OperatorFacts(family=Family.EXTENT),
    "Bernoulli": OperatorFacts(15, family=Family.RANDOM),
    "Multinomial": OperatorFacts(7, family=Family.RANDOM),
    "RandomNormal": OperatorFacts(family=Family.RANDOM),
    "RandomNormalLike": OperatorFacts(family=Family.RANDOM),
    "RandomUniform": OperatorFacts(family=Family.RANDOM),
    "RandomUniformLike": OperatorFacts(family=Family.RANDOM),
}
_CONTRIB: Mapping[str, OperatorFacts] = {
    "BiasGelu": _each(),
    "FastGelu": _each(),  # its second input is a bias, so zero need not stay zero
    "GatherBlockQuantized": OperatorFacts(family=Family.PICK),
    "Gelu": _each(keeps_zero=True),
    "MatMulBnb4": OperatorFacts(family=Family.PRODUCT),
    "MatMulNBits": OperatorFacts(family=Family.PRODUCT),
    "QuickGelu": _each(keeps_zero=True),
}
#: Domain and operator -> what is known of it.
OPERATORS: Mapping[tuple[str, str], OperatorFacts] = {
    **{("", op): facts for op, facts in _STANDARD.items()},
    **{(CONTRIB, op): facts for op, facts in _CONTRIB.items()},
}
_NOTHING = OperatorFacts()


def lookup(op: str, domain: str | None = "") -> OperatorFacts:
    """What is known of an operator; of one that is not in the table, nothing."""
    return OPERATORS.get(("" if domain in (None, "ai.onnx") else domain, op), _NOTHING)


def broadcasts(op: str, domain: str | None, opset: int) -> bool:
    """Whether the operands of a node broadcast as numpy's do at this opset of its domain."""
    first = lookup(op, domain).broadcasts
    return first is not None and first <= opset


def default_axis(op: str, opset: int) -> int:
    """The attribute ``axis`` of a standard operator that leaves it out: Softmax has 1 before opset 13, then -1."""
    return int(onnx.defs.get_schema(op, opset, "").attributes["axis"].default_value.i)


def members(*families: Family) -> frozenset[str]:
    """The standard operators of these families."""
    return _standard(lambda facts: facts.family in families)


def _standard(fact: Callable[[OperatorFacts], object]) -> frozenset[str]:
    return frozenset(op for op, facts in _STANDARD.items() if fact(facts))


#: Standard operators by fact.
ELEMENTWISE = _standard(lambda facts: facts.elementwise)
FIRST_ALONE = _standard(lambda facts: facts.first_alone)
BROADCASTING = _standard(lambda facts: facts.broadcasts)
PARTIAL = _standard(lambda facts: facts.partial)
WHOLE = _standard(lambda facts: facts.whole)
ARGUED = _standard(lambda facts: facts.argued)
#: Those that hand on the values that they read, in their order, if in another shape or type.
KEEPS_VALUES = members(Family.ORDER, Family.CONVERSION)
#: Those that turn numbers into levels of a scale, and levels into numbers.
QUANTISATION = members(Family.QUANTISATION)
#: Those that move values without computing.
MOVES = members(Family.ORDER, Family.AXES, Family.REPEAT, Family.CUT, Family.PICK, Family.JOIN)
CONTRIB_ELEMENTWISE = frozenset(op for op, facts in _CONTRIB.items() if facts.elementwise)
#: Products of the first input [..., K] by one matrix [K, N] of a few bits, packed in the other inputs.
PRODUCTS_OF_FEW_BITS = frozenset(op for op, facts in _CONTRIB.items() if facts.family is Family.PRODUCT)
