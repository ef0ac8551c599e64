"""Shape inference computes with contents as short as shapes are, and forgets what outgrows them."""

from __future__ import annotations

import pytest
import sympy

from passes.graph_io import import_graph
from passes.shapes.contents import is_shape_like
from passes.shapes.symbolic import infer_symbolic_shapes
from poprt.converter import Converter
from tests.passes.rewrites import parse

N = sympy.Symbol("n")


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (7, True),
        ([2, N, N * 4 // 3], True),
        ([1] * 1024, True),
        ([1] * 1025, False),
        ([2**63], False),
        ([N**65], False),
        ([N + 2**63], False),
        (sum(sympy.Symbol(f"n{number}") for number in range(200)), False),
    ],
    ids=str,
)
def test_what_is_like_a_shape(contents: object, expected: bool) -> None:
    assert is_shape_like(contents) is expected


def chain(step: str, length: int) -> str:
    """A graph that starts with the extents of x and repeats ``step``, which makes {b} of {a}."""
    steps = " ".join(step.format(a=f"s{n}", b=f"s{n + 1}") for n in range(length))
    return f"g (float[b,n] x) => (int64[m] y) {{ s0 = Shape (x)  {steps}  y = Neg (s{length}) }}"


@pytest.mark.parametrize(
    "text",
    [
        chain("{b} = Concat <axis = 0> ({a}, {a})", 26),
        chain("{b} = Mul ({a}, {a})", 40),
        (
            "g (float[m] x) => (int64[m] y) <int64[1] many = {200000000}> "
            "{ a = ConstantOfShape <value = int64[1] {3}> (many)  b = Mul (a, a)  y = Neg (b) }"
        ),
        "g (float[m] x, int64[200000000] s) => (float[a,b] y) { y = Reshape (x, s) }",
        "g (float[m] x, int64[200000000] s) => (float[a,b] y) { y = ConstantOfShape (s) }",
    ],
    ids=["concat", "square", "constant", "reshape", "rank"],
)
def test_contents_that_grow_without_bound_are_forgotten(text: str) -> None:
    shapes = infer_symbolic_shapes(import_graph(parse(text)))
    assert all(is_shape_like(content) for content in shapes.contents.values())


def test_fixing_shapes_does_not_trace_vectors_that_are_no_shapes() -> None:
    model = parse(chain("{b} = Concat <axis = 0> ({a}, {a})", 26))
    fixed = Converter(input_shape={"x": [2, 5]}, disable_progress_bar=True).convert(model)
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == [2, 5]
