"""Operators that PopRT writes into a graph and that are standard operators by another name.

Their documentation gives names and what each stands in for; what is concluded from that is said beside each body.
"""

from __future__ import annotations

#: Operator -> its body. All of them compute place by place but SoftmaxV2.
BODIES = {
    # It prints where the IPU holds x, and gives x.
    "PrintTileMapping": "PrintTileMapping (x) => (y) { y = Identity (x) }",
    # It holds x in another order of the IPU's tiles; its attributes say which.
    "Remap": "Remap (x) => (y) { y = Identity (x) }",
    "LeakyRelu": "LeakyRelu <alpha : float = 0.01> (x) => (y) { y = LeakyRelu <alpha : float = @alpha> (x) }",
    # `gelu_pattern` puts it in the place of the tanh form.
    "Gelu": """
Gelu (x) => (y)
{
    c = Constant <value_float = 0.044715> ()
    root = Constant <value_float = 0.7978845608028654> ()
    one = Constant <value_float = 1.0> ()
    half = Constant <value_float = 0.5> ()
    c_like = CastLike (c, x)
    root_like = CastLike (root, x)
    one_like = CastLike (one, x)
    half_like = CastLike (half, x)
    square = Mul (x, x)
    cube = Mul (square, x)
    term = Mul (cube, c_like)
    sum = Add (x, term)
    inner = Mul (sum, root_like)
    tanh = Tanh (inner)
    gate = Add (tanh, one_like)
    gated = Mul (x, gate)
    y = Mul (gated, half_like)
}""",
    # Where of more types; its condition may be numbers.
    "WhereV2": "WhereV2 (condition, x, y) => (z) { truth = Cast <to = 9> (condition) z = Where (truth, x, y) }",
    # A faster Erf with larger errors.
    "ErfV2": "ErfV2 (x) => (y) { y = Erf (x) }",
    # It rounds halves to even, as Round does.
    "RoundV2": "RoundV2 (x) => (y) { y = Round (x) }",
    # IsInf takes no float16 before opset 20.
    "IsInfV2": """
IsInfV2 <detect_negative : int = 1, detect_positive : int = 1> (x) => (y)
{
    wide = Cast <to = 1> (x)
    y = IsInf <detect_negative : int = @detect_negative, detect_positive : int = @detect_positive> (wide)
}""",
    # It takes the place of a Softmax over the last axis.
    "SoftmaxV2": "SoftmaxV2 <axis : int = -1> (x) => (y) { y = Softmax <axis : int = @axis> (x) }",
    # It takes the place of a Cast to bool and one from bool: 1 where x is not zero. `to` is the type of the result.
    "NotZero": "NotZero <to : int = 1> (x) => (y) { truth = Cast <to = 9> (x) y = Cast <to : int = @to> (truth) }",
}

#: Operators that PopRT's passes put in the place of a standard one, which stays here: a script that looks for them in a
#: converted model means the standard one.
STANDARD_NAMES = {name: name.removesuffix("V2") for name in BODIES if name.endswith("V2")}
