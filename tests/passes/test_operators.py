"""The table of operators, held against onnx's schemas and reference implementation; and nobody keeps a copy of it."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from passes.operators import (
    ARGUED,
    BROADCASTING,
    CONTRIB,
    CONTRIB_ELEMENTWISE,
    ELEMENTWISE,
    FIRST_ALONE,
    OPERATORS,
    PARTIAL,
    WHOLE,
    Family,
    broadcasts,
    default_axis,
    lookup,
    members,
)
from passes.precision.int32_rules import INT32_KERNELS

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).parents[2]
#: The newest opset that these tests run operators in.
OPSET = min(24, onnx.defs.onnx_opset_version())
#: Attributes without which an operator is not valid, or takes no floats.
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "BitShift": {"direction": "LEFT"},
    "Cast": {"to": onnx.TensorProto.FLOAT},
    "Mod": {"fmod": 1},
}


def known(ops: frozenset[str]) -> list[str]:
    """Those that this onnx has."""
    return sorted(op for op in ops if lookup(op).since <= OPSET)


def schema(op: str, opset: int = OPSET) -> Any:
    return onnx.defs.get_schema(op, opset, "")


def allowed(op: str, index: int) -> set[str]:
    parameter = schema(op).inputs[min(index, len(schema(op).inputs) - 1)]
    constraints = {item.type_param_str: item.allowed_type_strs for item in schema(op).type_constraints}
    return set(constraints.get(parameter.type_str, [parameter.type_str]))


def operands(op: str, shapes: list[tuple[int, ...]], *, first: float | None = None, seed: int = 0) -> list[Array]:
    """Random operands of a type that the operator takes; the first all of one number where it is given."""
    rng, arrays = np.random.default_rng(seed), []
    for index, shape in enumerate(shapes):
        kinds = allowed(op, index)
        values: Array = rng.uniform(-3, 3, shape)
        if index == 0 and first is not None:
            values = np.full(shape, first)
        if "tensor(float)" in kinds:
            arrays.append(values.astype(np.float32))
        elif kinds == {"tensor(bool)"}:
            arrays.append(values > 0)
        else:
            arrays.append(np.abs(np.rint(values)).astype(np.uint32))
    return arrays


def apply(op: str, inputs: list[Array], opset: int = OPSET, **attributes: Any) -> Array:
    """The result of one node, by onnx's reference implementation."""
    names = [f"x{index}" for index in range(len(inputs))]
    node = onnx.helper.make_node(op, names, ["y"], **{**_ATTRIBUTES.get(op, {}), **attributes})
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(item.dtype), item.shape)
        for name, item in zip(names, inputs, strict=True)
    ]
    graph = onnx.helper.make_graph([node], "one", values, [onnx.helper.make_empty_tensor_value_info("y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))[0])


def count(op: str) -> int:
    """How many operands the tests give it."""
    return 1 if op in FIRST_ALONE or schema(op).max_input == 1 else max(2, schema(op).min_input)


def run(op: str, inputs: list[Array], **attributes: Any) -> Array:
    """As :func:`apply`; a CastLike gets its example."""
    return apply(op, [*inputs, np.zeros(1, np.float32)] if op == "CastLike" else inputs, **attributes)


@pytest.mark.parametrize("op", sorted(op for domain, op in OPERATORS if not domain))
def test_an_operator_is_there_from_the_opset_that_the_table_says(op: str) -> None:
    if lookup(op).since > onnx.defs.onnx_opset_version():
        pytest.skip("newer than the installed onnx")
    versions = [s.since_version for s in onnx.defs.get_all_schemas_with_history() if (s.domain, s.name) == ("", op)]
    assert lookup(op).since == min(versions)


def test_every_operator_that_onnx_calls_elementwise_is_in_the_table() -> None:
    said = {
        item.name
        for item in map(schema, {s.name for s in onnx.defs.get_all_schemas() if not s.domain and exists(s.name)})
        if not item.deprecated and re.search(r"element-?\s?wise", item.doc or "", re.IGNORECASE)
    }
    assert said - ELEMENTWISE == {"StringConcat"} & said


def exists(op: str) -> bool:
    return onnx.defs.has(op, OPSET, "")


@pytest.mark.parametrize("op", known(ELEMENTWISE))
def test_permuting_the_places_permutes_the_result(op: str) -> None:
    inputs = operands(op, [(3, 4)] * count(op))
    order = np.random.default_rng(1).permutation(12)
    moved = [item.reshape(-1)[order].reshape(3, 4) for item in inputs]
    want = run(op, inputs)
    assert want.shape == (3, 4)
    np.testing.assert_array_equal(run(op, moved), want.reshape(-1)[order].reshape(3, 4))


@pytest.mark.parametrize("op", sorted(members(Family.REDUCTION)))
def test_a_reduction_makes_one_number_of_all_within_its_bounds(op: str) -> None:
    low, high = lookup(op).bounds or (-np.inf, np.inf)
    result = apply(op, [np.array([[-3, -1, -2]], np.float32)])
    assert result.shape == (1, 1)
    assert np.isnan(result) or low <= result <= high  # ReduceLogSum of negative numbers is none


@pytest.mark.parametrize("op", known(ELEMENTWISE))
def test_an_operator_broadcasts_where_it_reads_more_than_one_operand_by_place(op: str) -> None:
    assert (op in BROADCASTING) == (count(op) > 1)


@pytest.mark.parametrize("op", known(BROADCASTING))
def test_operands_broadcast_from_the_opset_that_the_table_says(op: str) -> None:
    first = lookup(op).broadcasts
    assert first is not None
    assert schema(op, first).since_version == first
    assert broadcasts(op, "", first)
    assert not broadcasts(op, "", first - 1)
    # The slope of PRelu broadcasts to the first operand alone; so does onnx's reference for Mean.
    left = (2, 3) if op in ("PRelu", "Mean") else (2, 1)
    inputs = operands(op, [left, *[(1, 3)] * (count(op) - 1)])
    spread = [np.broadcast_to(item, (2, 3)).copy() for item in inputs]
    np.testing.assert_array_equal(apply(op, inputs, first), apply(op, spread, first))
    if first > lookup(op).since:
        before = schema(op, first - 1)
        assert "broadcast" in before.attributes or "numpy" not in before.doc.lower()


@pytest.mark.parametrize("op", [op for op in known(ELEMENTWISE) if lookup(op).keeps_zero])
def test_zero_stays_zero(op: str) -> None:
    for seed in range(3):
        inputs = operands(op, [(3, 4)] * count(op), first=0, seed=seed)
        assert not run(op, inputs).any()
        for name in set(schema(op).attributes) & {"alpha", "gamma"}:
            assert not run(op, inputs, **{name: -2.0}).any(), name


def test_shrink_does_not_keep_zero_whatever_its_attributes_are() -> None:
    assert not lookup("Shrink").keeps_zero
    assert apply("Shrink", [np.zeros(1, np.float32)], lambd=-1.0, bias=2.0)[0] == 2


@pytest.mark.parametrize("op", known(ELEMENTWISE))
def test_numbers_give_numbers_unless_the_table_says_otherwise(op: str) -> None:
    places = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], np.float32)
    pairs = [np.array(column) for column in zip(*itertools.product(places, repeat=count(op)), strict=True)]
    typed = [
        values.astype(item.dtype) for values, item in zip(pairs, operands(op, [(1,)] * count(op)), strict=True)
    ]  # fmt: skip
    if typed[0].dtype == np.uint32:
        typed = [np.abs(values).astype(np.uint32) for values in pairs]
    assert bool(np.isfinite(run(op, typed)).all()) != (op in PARTIAL)


@pytest.mark.parametrize("op", [op for op in known(ELEMENTWISE) if lookup(op).bounds])
def test_results_lie_within_the_bounds(op: str) -> None:
    bounds = lookup(op).bounds
    assert bounds is not None
    result = run(op, [np.concatenate([np.linspace(-50, 50, 1001), [-1e6, 0, 1e6]]).astype(np.float32)])
    assert bounds[0] <= result.min()
    assert result.max() <= bounds[1]
    assert result.max() - result.min() > 0.9 * (bounds[1] - bounds[0])


@pytest.mark.parametrize("op", known(WHOLE))
def test_whole_numbers_give_whole_numbers(op: str) -> None:
    inputs: list[Array] = []
    for index in range(count(op)):
        kinds = allowed(op, index)
        assert kinds & {"tensor(int64)", "tensor(bool)"}
        inputs.append(np.array([1, 1, 2]) if "tensor(int64)" in kinds else np.array([True, False, True]))
    if op == "Where":
        inputs[0] = np.array([True, False, True])
    node_attributes = {"fmod": 0} if op == "Mod" else {}
    assert apply(op, inputs, **node_attributes).dtype.kind in "biu"


@pytest.mark.parametrize("op", known(ARGUED - {"Pad"}))  # of Pad one input is a value
def test_what_the_later_inputs_of_an_argued_operator_are(op: str) -> None:
    first, *later = schema(op).inputs
    assert all(item.type_str != first.type_str for item in later)


@pytest.mark.parametrize(
    ("op", "name"), [("Reshape", "shape"), ("Expand", "shape"), ("ConstantOfShape", "input")]
)  # fmt: skip
def test_the_input_that_holds_a_shape(op: str, name: str) -> None:
    index = lookup(op).shape_input
    assert index is not None
    assert schema(op).inputs[index].name == name
    assert allowed(op, index) == {"tensor(int64)"}


def test_the_default_axis_follows_the_opset() -> None:
    assert [default_axis("Softmax", opset) for opset in (11, 12, 13, 17)] == [1, 1, -1, -1]
    assert [default_axis(op, 17) for op in ("TopK", "OneHot", "LpNormalization", "ArgMax")] == [-1, -1, -1, 0]


def test_nothing_is_known_of_an_operator_of_another_domain() -> None:
    assert not lookup("Add", "local").elementwise
    assert lookup("Add", "ai.onnx") == lookup("Add", None) == lookup("Add")
    assert not broadcasts("Add", "local", 17)


@pytest.mark.parametrize("op", sorted(CONTRIB_ELEMENTWISE))
def test_onnxruntimes_own_operators_are_as_the_table_says(op: str) -> None:
    inputs = 2 if op in ("BiasGelu", "FastGelu") else 1
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    bias = np.array([1, 2, 3, 4], np.float32)
    order = [2, 0, 1]
    np.testing.assert_allclose(contrib(op, x[order], bias, inputs), contrib(op, x, bias, inputs)[order], rtol=1e-6)
    columns = [3, 1, 0, 2]
    turned = contrib(op, x[:, columns], bias[columns], inputs)
    np.testing.assert_allclose(turned, contrib(op, x, bias, inputs)[:, columns], rtol=1e-5)
    stays = not contrib(op, np.zeros((3, 4), np.float32), bias, inputs).any()
    assert stays == lookup(op, CONTRIB).keeps_zero


def contrib(op: str, x: Array, bias: Array, inputs: int) -> Array:
    text = f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        one (float[3, 4] x, float[4] b) => (float[3, 4] y) {{
            y = com.microsoft.{op} ({", ".join(["x", "b"][:inputs])})
        }}"""
    session = ort.InferenceSession(onnx.parser.parse_model(text).SerializeToString())
    return np.asarray(session.run(None, {"x": x, "b": bias})[0])


@pytest.mark.parametrize("op", sorted(op for op in INT32_KERNELS & WHOLE if "tensor(int32)" in allowed(op, -1)))
def test_the_engine_has_the_int32_kernels_that_the_rules_count_on(op: str) -> None:
    names = [f"x{index}" for index in range(count(op))]
    kinds = ["bool" if op == "Where" and name == "x0" else "int32" for name in names]
    result = "bool" if lookup(op).family is Family.COMPARISON else "int32"
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        one ({", ".join(f"{kind}[2] {name}" for kind, name in zip(kinds, names, strict=True))}) => ({result}[2] y) {{
            y = {op} ({", ".join(names)})
        }}"""
    session = ort.InferenceSession(onnx.parser.parse_model(text).SerializeToString())
    feeds = {n: np.array([1, 2], np.dtype(kind)) for n, kind in zip(names, kinds, strict=True)}
    assert session.run(None, feeds)[0].shape == (2,)


#: Facts of which no other module may name more than two operators.
_SHARED = {"elementwise": ELEMENTWISE, "broadcasting": BROADCASTING, "onnxruntime's elementwise": CONTRIB_ELEMENTWISE}
#: Families of which a module may name a part, where it knows something of that part alone.
_FAMILIES = {family.name: members(family) for family in Family if len(members(family)) > 2}
_MOST_NAMED = 2
#: A decorator registers one rule for the few operators that it is a rule of.
_MOST_REGISTERED = 5


def lists(source: str) -> Iterator[tuple[int, int, set[str]]]:
    """Line, how many names are few, and the strings, of each collection, call and string of names in some Python."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            yield node.lineno, _MOST_NAMED, strings(node.elts)
        elif isinstance(node, ast.Dict) and all(isinstance(value, ast.Constant) for value in node.values):
            yield node.lineno, _MOST_NAMED, strings(node.keys)  # a table of rules holds something else
        elif isinstance(node, ast.Call):
            yield node.lineno, _MOST_REGISTERED, strings(node.args)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not is_prose(node.value):
            yield node.lineno, _MOST_NAMED, set(node.value.split())


def strings(items: Sequence[ast.expr | None]) -> set[str]:
    return {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}


def is_prose(text: str) -> bool:
    return any(word[:1].islower() or word[-1:] in ".,:" for word in text.split())


def copies(source: str) -> dict[int, str]:
    """Line -> the fact that a list there repeats."""
    facts: dict[int, str] = {}
    for line, few, named in lists(source):
        for fact, ops in {**_SHARED, **_FAMILIES}.items():
            own = named & ops
            if len(own) > few and (fact in _SHARED or len(own) >= 0.75 * len(ops)):
                facts[line] = f"{fact}: {', '.join(sorted(own))}"
    return facts


@pytest.mark.parametrize(
    "source",
    [
        'A = {"Add", "Mul", "Relu"}',
        'A = ["Equal", "Less", "And"]',
        'A = "Add Mul Relu Sub".split()',
        'A = {"Add": 1, "Mul": 2, "Div": 3}',
        'f("Add", "Mul", "Neg", "Abs", "Exp", "Log")',
        'if node.op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"): pass',
    ],
)
def test_a_list_of_operators_is_seen(source: str) -> None:
    assert copies(source)


@pytest.mark.parametrize(
    "source", ['A = {"Add", "Mul"}', 'A = "Adds, Muls and Relu."', 'R = {"Add": _add, "Mul": _mul, "Div": _div}']
)
def test_a_few_names_are_no_list(source: str) -> None:
    assert not copies(source)


def test_no_module_keeps_a_list_of_its_own() -> None:
    modules = [path for folder in ("passes", "poprt", "poprt_cli") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(modules) > 100
    copied = {
        f"{path.relative_to(ROOT)}:{line}": what
        for path in modules
        if path != ROOT / "passes/operators.py"
        for line, what in copies(path.read_text(encoding="utf-8")).items()
    }
    assert not copied, "facts of operators belong in passes/operators.py"
