"""Operators of the IPU that arrive in a graph: converted and compiled, the numbers are those of their meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from passes.errors import RewriteError
from passes.ops import DOMAIN, FOREIGN
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.runtime import ModelRunner
from tests import numerics
from tests.passes.packing.packs import COLUMNS, PACK_ARGS, ROWS, around
from tests.passes.rewrites import ops, parse
from tests.passes.rewritten import model_of, random

Array = np.ndarray[Any, Any]
X = 2 * random(2, 4, 3)
X[0, 0] = [0, -0.5, 1.5]
SCALE, SHIFT = random(4, seed=1), random(4, seed=2)
LAST_SCALE, LAST_SHIFT = random(3, seed=3), random(3, seed=4)
CONDITION = np.array([1, 0, 0, 1])
WEIGHTS = {
    "scale": SCALE, "shift": SHIFT, "last_scale": LAST_SCALE, "last_shift": LAST_SHIFT, "condition": CONDITION,
    "truth": CONDITION.astype(bool)[:, None],
}  # fmt: skip


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def group_norm(x: Array, groups: int, epsilon: float) -> Array:
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return np.asarray(normal.reshape(x.shape) * SCALE[:, None] + SHIFT[:, None])


def tanh_gelu(x: Array) -> Array:
    return np.asarray(x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2)


def layer_norm(x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * LAST_SCALE + LAST_SHIFT)


#: The call, and what it means.
CASES: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "PrintTileMapping": ("PrintTileMapping (x)", lambda x: x),
    "Remap": ("Remap <fwd_grain_size = 8> (x)", lambda x: x),
    "LeakyRelu": ("LeakyRelu <alpha = 0.3> (x)", lambda x: np.where(x < 0, 0.3 * x, x)),
    "LeakyRelu by default": ("LeakyRelu (x)", lambda x: np.where(x < 0, 0.01 * x, x)),
    "Gelu": ("Gelu (x)", tanh_gelu),
    "WhereV2": ("WhereV2 (truth, x, last_shift)", lambda x: np.where(CONDITION[:, None] != 0, x, LAST_SHIFT)),
    "ErfV2": ("ErfV2 (x)", np.vectorize(math.erf)),
    "RoundV2": ("RoundV2 (x)", np.round),
    "SoftmaxV2": ("SoftmaxV2 (x)", lambda x: softmax(x, -1)),
    "SoftmaxV2 over another axis": ("SoftmaxV2 <axis = 1> (x)", lambda x: softmax(x, 1)),
    "FastNorm": ("FastNorm (x, last_scale, last_shift)", layer_norm),
    "GroupNormalization": (
        "GroupNormalization <num_groups = 2, epsilon = 0.1> (x, scale, shift)",
        lambda x: group_norm(x, 2, 0.1),
    ),
    "MaskCompress": (
        "MaskCompress <axis = 1> (x, condition)",
        lambda x: np.concatenate([x[:, [0, 3]], np.zeros_like(x[:, :2])], axis=1),
    ),
    "NotZero": ("NotZero (x)", lambda x: (x != 0).astype(x.dtype)),
    "IsInfV2": ("IsInfV2 (x)", np.isinf),
}


def model(call: str, *, opset: int = 17, kind: str = "float", output: str = "") -> onnx.ModelProto:
    output = output or ("bool" if "IsInf" in call else kind)
    halved = {name: value.astype(np.float16) for name, value in WEIGHTS.items() if value.dtype == np.float32}
    weights = {**WEIGHTS, **halved} if kind == "float16" else WEIGHTS
    text = f"g ({kind}[2,4,3] x) => ({output}[2,4,3] y) {{ y = {DOMAIN}.{call} }}"
    return model_of(text, weights, opset=opset)


def test_every_operator_is_tried() -> None:
    assert {call.partition(" ")[0] for call, _ in CASES.values()} == FOREIGN


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_a_converted_model_has_standard_operators_alone(case: str, opset: int) -> None:
    call, meaning = CASES[case]
    converted = Converter().convert(model(call, opset=opset))
    assert not [node for node in converted.graph.node if node.domain]
    assert not converted.functions
    onnx.checker.check_model(converted, full_check=True)
    np.testing.assert_allclose(numerics.run(converted, {"x": X})["y"], meaning(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_model_of_float16_runs_too(case: str) -> None:
    call, meaning = CASES[case]
    half = X.astype(np.float16)
    actual = numerics.run(Converter().convert(model(call, kind="float16")), {"x": half})["y"]
    assert actual.dtype == (bool if "IsInf" in call else np.float16)
    np.testing.assert_allclose(actual.astype(np.float32), meaning(half.astype(np.float32)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("opset", [11, 17])
def test_a_model_that_was_not_converted_compiles(case: str, opset: int) -> None:
    call, meaning = CASES[case]
    executable = Compiler.compile(model(call, opset=opset).SerializeToString(), ["y"])
    result = np.zeros((2, 4, 3), bool if "IsInf" in call else np.float32)
    with ModelRunner(executable) as runner:
        runner.execute({"x": X}, {"y": result})
    np.testing.assert_allclose(result, meaning(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ("", [True, False, True]),
        ("<detect_negative = 0>", [False, False, True]),
        ("<detect_positive = 0>", [True, False, False]),
    ],
)
def test_either_infinity_may_be_left_out(bounds: str, expected: list[bool]) -> None:
    text = f"g (float[3] x) => (bool[3] y) {{ y = {DOMAIN}.IsInfV2 {bounds} (x) }}"
    after = numerics.run(Converter().convert(parse(text)), {"x": np.float32([-np.inf, 0, np.inf])})
    assert after["y"].tolist() == expected


@pytest.mark.parametrize(("kind", "numpy_type"), [("int32", np.int32), ("float", np.float32), ("bool", np.bool_)])
def test_what_is_not_zero_has_the_type_that_the_graph_declares(kind: str, numpy_type: Any) -> None:
    text = f"g (int32[3] x) => ({kind}[3] y) {{ y = {DOMAIN}.NotZero (x) }}"
    after = numerics.run(Converter().convert(parse(text)), {"x": np.int32([0, 5, -1])})
    assert after["y"].dtype == numpy_type
    assert after["y"].tolist() == [0, 1, 1]


def test_branches_have_them_too() -> None:
    text = (
        "g (float[3] x, bool c) => (float[3] y) { y = If (c) "
        f"<then_branch = t () => (float[3] y1) {{ y1 = {DOMAIN}.LeakyRelu <alpha = 0.5> (x) }}, "
        f"else_branch = e () => (float[3] y2) {{ y2 = {DOMAIN}.RoundV2 (x) }}> }}"
    )
    converted = Converter().convert(parse(text))
    for truth, expected in ((True, [-1.0, 3.0]), (False, [-2.0, 3.0])):
        feeds = {"x": np.float32([-2, 3, 0]), "c": np.array(truth)}
        assert numerics.run(converted, feeds)["y"][:2].tolist() == expected


def test_results_that_the_body_does_not_compute_are_refused() -> None:
    call = f"{DOMAIN}.GroupNormalization (x, scale, shift)"
    text = f"g (float[2,4,3] x) => (float[2,4,3] y, float[?] m) {{ y, m = {call} }}"
    broken = parse(text)
    broken.graph.initializer.extend(onnx.numpy_helper.from_array(WEIGHTS[name], name) for name in ("scale", "shift"))
    with pytest.raises(RewriteError, match="gives 2 results; only the first 1 can be computed here"):
        Converter().convert(broken)


def test_an_operator_of_the_domain_that_a_library_brings_is_left_alone() -> None:
    text = f"g (float[3] x) => (float[3] y) {{ a = {DOMAIN}.Sharpen (x) y = {DOMAIN}.LeakyRelu (a) }}"
    assert ops(Converter().convert(parse(text))) == ["Sharpen", "LeakyRelu"]


@pytest.mark.parametrize(
    "body",
    [
        "y = ai.graphcore.Gelu (x)",
        "y = ai.graphcore.FastNorm (x, V, V1)",
        "a = ai.graphcore.PrintTileMapping (x) b = ai.graphcore.Remap (a) y = ai.graphcore.ErfV2 (b)",
        "y = ai.graphcore.SoftmaxV2 (x)",
        "n = ai.graphcore.NotZero (x) y = Mul (n, x)",
    ],
)
def test_packing_sees_through_what_treats_each_token_alone(body: str) -> None:
    shapes = {"ids": [ROWS, COLUMNS], "mask": [ROWS, COLUMNS]}
    converter = Converter(pack_args=PACK_ARGS, input_shape=shapes, check=True)
    converter.convert(around(body))
    assert converter.verification is not None
    assert converter.verification.passed
    details = next(record.result for record in converter.records if record.name == "packed_transformer")
    assert not [refusal for refusal in details.refusals if refusal.node and refusal.node.name == "y"]


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.FLOAT])
def test_a_type_that_is_written_out_counts(kind: int) -> None:
    text = f"g (int32[3] x) => (float[3] y) {{ a = {DOMAIN}.NotZero <to = {kind}> (x) y = Cast <to = 1> (a) }}"
    after = numerics.run(Converter().convert(parse(text)), {"x": np.int32([0, 5, -1])})
    assert after["y"].tolist() == [0, 1, 1]
