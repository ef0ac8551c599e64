# ruff: noqa: ISC004  (texts of several lines in tables)
"""Operators by opset: raised, each gives in onnxruntime what it gave before; no change of a schema is overlooked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import defs
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, NotImplemented

from passes.errors import RewriteError
from passes.shapes.convert_opset import ConvertOpset
from passes.shapes.operator_changes import breaking_versions
from passes.shapes.opset_adapters import ADAPTERS
from tests.numerics import run
from tests.passes.rewrites import copy_of, ops, parse

#: The newest opset that both onnx and the engines at hand hold finished.
NEWEST = min(26, defs.onnx_opset_version())
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 3, 5)).astype(np.float32)
FEEDS: dict[str, Any] = {
    "x": X,
    "p": np.abs(X) + 0.1,
    "i": RNG.integers(1, 4, (2, 4)),
    "c": RNG.random((2, 4)) > 0.5,
    "w": RNG.standard_normal((4,)).astype(np.float32),
    "s": RNG.standard_normal((3, 2, 4)).astype(np.float32),
}
TYPES = "float[a,b,c,d] x, float[a,b,c,d] p, int64[m,n] i, bool[m,n] c, float[k] w, float[q,r,t] s"
_NORM = "y = BatchNormalization {}(x, w, w, w, v)"
_V = "v = Abs (w)  "
_GRID = "k = Constant <value=float[2,1,2,2] {0.1,0.2,-0.3,0.4,0.9,-0.8,0.0,0.5}> ()  "
_KERNEL = "k = Constant <value = float[1,4,2,2] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> ()  "

#: What the nodes are -> (their text, the first and the last opset in which this is how they are written).
CHANGED: dict[str, tuple[str, int, int]] = {
    "softmax over the last": ("y = Softmax <axis=3> (x)", 7, NEWEST),
    "softmax over three": ("y = Softmax <axis=1> (x)", 7, 12),
    "softmax by default": ("y = Softmax (x)", 7, 12),
    "softmax over all": ("y = Softmax <axis=0> (x)", 7, 12),
    "softmax from the end": ("y = Softmax <axis=-2> (x)", 11, 12),
    "log softmax": ("y = LogSoftmax <axis=2> (x)", 7, 12),
    "hardmax": ("y = Hardmax <axis=2> (x)", 7, 12),
    "hardmax by default": ("y = Hardmax (x)", 7, NEWEST),
    "clip": ("y = Clip <min=-0.5, max=0.5> (x)", 7, 10),
    "clip below": ("y = Clip <min=0.0> (x)", 7, 10),
    "clip above": ("y = Clip <max=0.0> (x)", 7, 10),
    "squeeze": ("a = Unsqueeze <axes=[0,2]> (x)  y = Squeeze <axes=[0,2]> (a)", 7, 12),
    "squeeze of all": ("a = Unsqueeze <axes=[0]> (x)  y = Squeeze (a)", 7, 12),
    "dropout": ("y = Dropout <ratio=0.3> (x)", 7, 11),
    "batch norm": (_V + _NORM.format("<epsilon=0.01>"), 7, NEWEST),
    "batch norm that trains": (
        _V + "y, m1, m2, m3, m4 = BatchNormalization <momentum=0.8> (x, w, w, w, v)", 9, 13,
    ),
    "pad": ("y = Pad <pads=[0,0,1,0,0,0,0,2], value=1.5> (x)", 7, 10),
    "pad by reflection": ('y = Pad <mode="reflect", pads=[0,0,1,1,0,0,1,1]> (x)', 7, 10),
    "slice": ("y = Slice <starts=[1,-2], ends=[3,9], axes=[1,3]> (x)", 7, 9),
    "slice of the first": ("y = Slice <starts=[1], ends=[2]> (x)", 7, 9),
    "split": ("a, b = Split <axis=1, split=[1,3]> (x)  y = Concat <axis=1> (b, a)", 7, 12),
    "split in equal parts": ("a, b = Split <axis=1> (x)  y = Concat <axis=1> (b, a)", 7, 17),
    "split by an input": ("k = Constant <value=int64[2] {1,3}> ()  a, b = Split <axis=1> (x, k)  y = Neg (b)", 13, 26),
    "top k": ("y, j = TopK <axis=1, k=2> (x)", 7, 9),
    "nearest larger": ("y = Upsample <scales=[1.0,1.0,2.0,3.0]> (x)", 7, 8),
    "linear larger": ('y = Upsample <mode="linear", scales=[1.0,1.0,2.0,2.0]> (x)', 7, 8),
    "upsample by an input": ("k = Constant <value=float[4] {1,1,2,1.5}> ()  y = Upsample (x, k)", 9, 9),
    "resize larger": ("k = Constant <value=float[4] {1,1,2,1.5}> ()  y = Resize (x, k)", 10, 10),
    "resize smaller": ("k = Constant <value=float[4] {1,1,0.5,0.7}> ()  y = Resize (x, k)", 10, 10),
    "resize linear": ('k = Constant <value=float[4] {1,1,0.7,1.5}> ()  y = Resize <mode="linear"> (x, k)', 10, 10),
    "resize to sizes": (
        'e = Constant <value=float[0] {}> ()  k = Constant <value=int64[4] {2,4,6,5}> ()  '
         'y = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (x, e, e, k)', 11, NEWEST,
    ),
    "resize cubic": (
        'e = Constant <value=float[0] {}> ()  k = Constant <value=float[4] {1,1,2,2}> ()  '
         'y = Resize <mode="cubic"> (x, e, k)', 11, NEWEST,
    ),
    "scatter": ("k = Constant <value=int64[1,1] {1}> ()  u = Constant <value=int64[1,1] {9}> ()  "
                 "y = Scatter <axis=1> (i, k, u)", 9, 10),
    "roi align": (
        "r = Constant <value=float[1,4] {0.3,0.2,3.1,2.4}> ()  j = Constant <value=int64[1] {1}> ()  "
         "y = RoiAlign <output_height=2, output_width=2, sampling_ratio=2> (x, r, j)", 10, 15,
    ),
    "grid sample": (
        _GRID + 'y = GridSample <mode="bilinear", align_corners=1> (x, k)', 16, 19,
    ),
    "grid sample by default": (_GRID + "y = GridSample (x, k)", 16, NEWEST),
    "fourier": ("k = Constant <value=int64[1] {-1}> ()  a = Unsqueeze (x, k)  y = DFT <axis=2> (a)", 17, 19),
    "group norm": (
        "h = Constant <value=float[2] {1.5,0.5}> ()  y = GroupNormalization <num_groups=2> (x, h, h)", 18, 20,
    ),
    **{
        f"Reduce{kind} over {axes or 'all'}": (
            f"y = Reduce{kind} <{f'axes={axes}, ' if axes else ''}keepdims={keep}> (p)", 7, 12 if kind == "Sum" else 17,
        )
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
        for axes, keep in (([1, 3], 1), ([2], 0), (None, 1))
    },
}  # fmt: skip

_UNARY = """
    Abs 7 Acos 7 Acosh 9 Asin 7 Asinh 9 Atan 7 Atanh 9 Ceil 7 Cos 7 Cosh 9 Elu 7 Erf 9 Exp 7 Floor 7 Gelu 20
    HardSigmoid 7 HardSwish 14 Identity 7 LeakyRelu 7 Log 7 Mish 18 Neg 7 Reciprocal 7 Relu 7 Round 11 Selu 7 Sigmoid 7
    Sign 9 Sin 7 Sinh 9 Softplus 7 Softsign 7 Sqrt 7 Tan 7 Tanh 7 ThresholdedRelu 10 GlobalAveragePool 7 GlobalMaxPool 7
    MeanVarianceNormalization 9 Shape 7 Size 7 Flatten 7 Transpose 7 ArgMax 7 ArgMin 7 LpNormalization 7
"""
_BINARY = """
    Add 7 Sub 7 Mul 7 Div 7 Pow 7 Max 8 Min 8 Sum 8 Mean 8 Less 7 Greater 7 Equal 11 LessOrEqual 12 PRelu 7
"""


def _firsts(text: str) -> list[tuple[str, int]]:
    """Operators, each with the first opset to try."""
    words = text.split()
    return [(op, int(first)) for op, first in zip(words[::2], words[1::2], strict=True)]


#: Operators that newer opsets only widened: nothing may happen to them.
WIDENED: dict[str, tuple[str, int, int]] = {
    **{op: (f"y = {op} (p)", first, NEWEST) for op, first in _firsts(_UNARY)},
    **{op: (f"y = {op} (p, x)", first, NEWEST) for op, first in _firsts(_BINARY)},
    "And": ("y = And (c, c)", 7, NEWEST),
    "Not": ("y = Not (c)", 7, NEWEST),
    "Xor": ("y = Xor (c, c)", 7, NEWEST),
    "Where": ("y = Where (c, i, i)", 9, NEWEST),
    "IsNaN": ("y = IsNaN (x)", 9, NEWEST),
    "IsInf": ("y = IsInf (x)", 10, NEWEST),
    "Mod": ("y = Mod (i, i)", 10, NEWEST),
    "Cast": ("y = Cast <to=7> (x)", 7, NEWEST),
    "Concat": ("y = Concat <axis=2> (x, p)", 7, NEWEST),
    "Gather": ("y = Gather <axis=1> (x, i)", 7, NEWEST),
    "GatherElements": ("y = GatherElements <axis=1> (i, i)", 11, NEWEST),
    "OneHot": (
        "k = Constant <value=int64 {5}> ()  u = Constant <value=float[2] {0,1}> ()  y = OneHot (i, k, u)", 9, NEWEST,
    ),
    "NonZero": ("y = NonZero (i)", 9, NEWEST),
    "CumSum": ("k = Constant <value=int64 {1}> ()  y = CumSum (x, k)", 11, NEWEST),
    "Expand": ("k = Constant <value=int64[3] {3,2,4}> ()  y = Expand (i, k)", 8, NEWEST),
    "Tile": ("k = Constant <value=int64[2] {2,2}> ()  y = Tile (i, k)", 7, NEWEST),
    "Reshape": ("k = Constant <value=int64[2] {0,-1}> ()  y = Reshape (x, k)", 7, NEWEST),
    "ConstantOfShape": ("k = Shape (i)  y = ConstantOfShape (k)", 9, NEWEST),
    "Range": ("k = Constant <value=int64 {1}> ()  l = Constant <value=int64 {7}> ()  y = Range (k, l, k)", 11, NEWEST),
    "MatMul": ("t = Transpose <perm=[0,1,3,2]> (p)  y = MatMul (x, t)", 7, NEWEST),
    "Gemm": ("o = Constant <value=float[1] {0.5}> ()  f = Flatten (x)  y = Gemm <transB=1> (f, f, o)", 7, NEWEST),
    "Einsum": ('y = Einsum <equation="abcd,abcd->ab"> (x, p)', 12, NEWEST),
    "Conv": (_KERNEL + "y = Conv (x, k)", 7, NEWEST),
    "MaxPool": ("y = MaxPool <kernel_shape=[2,2]> (x)", 7, NEWEST),
    "AveragePool": ("y = AveragePool <kernel_shape=[2,2], pads=[0,0,1,1]> (x)", 7, NEWEST),
    "LpPool": ("y = LpPool <kernel_shape=[2,2]> (x)", 7, NEWEST),
    "InstanceNormalization": ("y = InstanceNormalization (x, w, w)", 7, NEWEST),
    "LayerNormalization": ("o = Constant <value=float[5] {1,2,3,4,5}> ()  y = LayerNormalization (x, o)", 17, NEWEST),
    "LRN": ("y = LRN <size=3> (x)", 7, NEWEST),
    "DepthToSpace": ("y = DepthToSpace <blocksize=2> (x)", 7, NEWEST),
    "ScatterND": (
        "k = Constant <value=int64[1,2] {1,2}> ()  u = Constant <value=int64[1] {9}> ()  y = ScatterND (i, k, u)", 11,
        NEWEST,
    ),
    "GatherND": ("k = Constant <value=int64[1,2] {1,2}> ()  y = GatherND (i, k)", 11, NEWEST),
    "Trilu": ("y = Trilu (x)", 14, NEWEST),
    "QuantizeLinear": (
        "u = Constant <value=float {0.1}> ()  z0 = Constant <value=uint8 {128}> ()  "
         "q = QuantizeLinear (x, u, z0)  y = DequantizeLinear (q, u, z0)", 10, NEWEST,
    ),
    "DynamicQuantizeLinear": ("y, u, z0 = DynamicQuantizeLinear (x)", 11, NEWEST),
    "Loop": (
        "k = Constant <value=int64 {3}> ()  t = Constant <value=bool {1}> ()  y = Loop (k, t, x) <body = b "
         "(int64 n, bool e, float[a,b,c,d] v) => (bool e1, float[a,b,c,d] v1) { e1 = Identity (e)  v1 = Add (v, v) }>",
        11, NEWEST,
    ),
}  # fmt: skip


def model_of(body: str, opset: int) -> onnx.ModelProto:
    """Only the inputs that the body reads are declared; the output has no shape."""
    text = f"g ({TYPES}) => (float y) {{ {body} }}"
    model = parse(text, opset=opset)
    read = {name for node in model.graph.node for name in node.input}
    kept = [value for value in model.graph.input if value.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return _typed(model)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The output's element type as it is inferred, whatever was declared."""
    bare = copy_of(model)
    del bare.graph.output[:]
    bare.graph.output.append(onnx.helper.make_empty_tensor_value_info("y"))
    try:
        kind = onnx.shape_inference.infer_shapes(bare).graph.output[0].type.tensor_type.elem_type
    except Exception:  # onnx has no rule for it at this opset
        kind = 0
    model.graph.output[0].type.tensor_type.elem_type = kind or onnx.TensorProto.FLOAT
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def feeds_of(model: onnx.ModelProto) -> dict[str, Any]:
    return {value.name: FEEDS[value.name].copy() for value in model.graph.input}


def versions(body: str, first: int, last: int) -> list[int]:
    """The opsets that changed an operator of the body, from the first on, and the last one."""
    changes = {
        s.since_version for s in defs.get_all_schemas_with_history() if not s.domain and f" {s.name} " in f" {body}"
    }
    return sorted({first, last, *(v for v in changes if first <= v <= last)})


CASES = [
    pytest.param(body, opset, id=f"{name}, opset {opset}")
    for table in (CHANGED, WIDENED)
    for name, (body, first, last) in table.items()
    for opset in versions(body, first, last)
]


@pytest.mark.parametrize(("body", "opset"), CASES)
def test_an_operator_raised_gives_in_the_engine_what_it_gave(body: str, opset: int) -> None:
    model = model_of(body, opset)
    try:
        expected = run(model, feeds_of(model))["y"]
    except (NotImplemented, InvalidGraph, Fail) as error:
        pytest.skip(f"the engine cannot run it as it is: {str(error)[:80]}")
    kind = model.graph.output[0].type.tensor_type
    kind.shape.CopyFrom(onnx.helper.make_tensor_type_proto(1, expected.shape).tensor_type.shape)
    for target in sorted({13, 17, 18, NEWEST}):
        if target <= opset or (target > 21 and "RoiAlign" in body):  # the engine has no RoiAlign of opset 22
            continue
        raised = ConvertOpset(target).run(copy_of(model))
        onnx.checker.check_model(raised, full_check="MeanVariance" not in body)  # onnx trips over its own function
        assert max(entry.version for entry in raised.opset_import if not entry.domain) == target
        np.testing.assert_allclose(run(raised, feeds_of(model))["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WIDENED)
def test_an_operator_that_was_only_widened_stays_as_it_is(name: str) -> None:
    body, first, _ = WIDENED[name]
    model = model_of(body, first)
    raised = ConvertOpset(NEWEST).run(copy_of(model))
    assert [node.SerializeToString() for node in raised.graph.node if node.op_type == name] == [
        node.SerializeToString() for node in model.graph.node if node.op_type == name
    ]


def _every_change() -> Iterator[tuple[str, int]]:
    operators = {s.name for s in defs.get_all_schemas_with_history() if s.domain == ""}
    for op in sorted(operators):
        try:
            yield from ((op, version) for version in breaking_versions(op, 7, defs.onnx_opset_version()))
        except KeyError:
            continue


def test_every_change_that_the_schemas_show_has_an_adapter() -> None:
    adapted = {(op, version) for op, entries in ADAPTERS.items() for version, _ in entries}
    assert set(_every_change()) - adapted == set()


@pytest.mark.parametrize("axis", [2, -1])
def test_a_softmax_over_the_last_axis_stays_one_node_behind_a_computed_reshape(axis: int) -> None:
    """The rank is that of the list of extents; onnx's own inference does not see it."""
    body = f"""e = Shape (x)  z = Constant <value=int64[1] {{0}}> ()  o = Constant <value=int64[1] {{1}}> ()
        b = Gather (e, z)  r = Constant <value=int64[1] {{-1}}> ()  l = Concat <axis=0> (b, o, r)
        f = Reshape (x, l)  y = Softmax <axis={axis}> (f)"""
    model = model_of(body, 11)
    raised = ConvertOpset(17).run(copy_of(model))
    assert ops(raised)[-2:] == ["Reshape", "Softmax"]
    np.testing.assert_allclose(run(raised, {"x": X})["y"], run(model, {"x": X})["y"], rtol=1e-6)


def test_a_rank_that_is_not_proved_is_not_guessed() -> None:
    """Behind an operator that nobody knows a softmax takes the axes from its own on, whatever they are."""
    model = parse("g (float[a,b] x) => (float y) { u = local.Odd (x)  y = Softmax <axis=1> (u) }", opset=11)
    raised = ConvertOpset(17).run(copy_of(model))
    assert sorted(ops(raised)) == ["Flatten", "Odd", "Reshape", "Shape", "Softmax"]


def test_a_softmax_in_a_branch_is_raised_by_the_rank_it_has_there() -> None:
    body = """t = Constant <value=bool {1}> ()  y = If (t) <
        then_branch = th () => (float[k] u) { u = Softmax <axis=3> (x) },
        else_branch = el () => (float[k] v) { v = Softmax <axis=1> (x) }>"""
    text = f"g (float[a,b,c,d] x) => (float y) {{ {body} }}"
    model = parse(text, opset=11)
    for value in [model.graph.output[0], *(a.g.output[0] for a in model.graph.node[1].attribute)]:
        value.type.tensor_type.ClearField("shape")
    raised = ConvertOpset(17).run(copy_of(model))
    branches = {attribute.name: ops(attribute.g) for attribute in raised.graph.node[-1].attribute}
    assert branches["then_branch"] == ["Softmax"]
    assert "Flatten" in branches["else_branch"]
    np.testing.assert_allclose(run(raised, {"x": X})["y"], run(model, {"x": X})["y"], rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "opset", "reason"),
    [
        ("v = Abs (w)  y = BatchNormalization <spatial=0> (x, w, w, w, v)", 7, "spatial is 0"),
        ("v = Abs (w)  a, b, e, y = BatchNormalization (x, w, w, w, v)", 9, "its output 'y' is read"),
        ("k = Constant <value=float[4] {1,1,2,0.5}> ()  y = Resize (x, k)", 10, "some axes smaller and some larger"),
    ],
)
def test_what_has_no_way_up_is_named(body: str, opset: int, reason: str) -> None:
    with pytest.raises(RewriteError, match=reason):
        ConvertOpset(17).run(model_of(body, opset))
