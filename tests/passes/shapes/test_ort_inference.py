"""Every private name of onnxruntime's shape inference that we reach is run here, on whatever version is installed."""

import subprocess
import sys

import pytest
import sympy
from onnx import TensorProto, parser

from passes.shapes.ort_inference import OrtShapeInference

INT_MAX = 2**31 - 1
HEADER = '<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>'


def inference(body, inputs="float[B, S, 8] x", kind=OrtShapeInference):
    model = parser.parse_model(f"{HEADER} g ({inputs}) => (float y) {{ {body} }}")
    walker = kind(model, INT_MAX)
    for _ in range(5):
        if walker.complete:
            break
        walker.walk_once()
    return walker


def dims(walker, name="y"):
    shape = walker.values[name].type.tensor_type.shape
    return [dim.dim_value or dim.dim_param for dim in shape.dim]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu (x)", ["B", "S", 8]),
        ("a = Constant <value_ints = [2]> ()  y = ReduceL2 <keepdims = 0> (x, a)", ["B", "S"]),
        ("a = Constant <value_ints = [1]> ()  y = ReduceMax (x, a)", ["B", 1, 8]),
        ("y = Flatten <axis = 2> (x)", ["B*S", 8]),
        ("y = Flatten <axis = -2> (x)", ["B", "8*S"]),
        ("s = Shape <start = 1, end = 2> (x)  y = ConstantOfShape (s)", ["S"]),
        ("s = Shape <start = -1> (x)  y = ConstantOfShape (s)", [8]),
        ("s = Shape <end = -1> (x)  y = ConstantOfShape (s)", ["B", "S"]),
        ("s = Constant <value_ints = [70000, 2]> ()  y = ConstantOfShape (s)", [70000, 2]),
    ],
)
def test_rules(body, expected):
    assert dims(inference(body)) == expected


RESIZED = {
    "y = Resize (x, , t)": ("float[4] t = {1, 1, 2, 3}", ["B", 3, "2*H", "3*W"]),
    "y = Resize (x, , t) ": ("float[4] t = {1, 1, 2.5, 0.5}", ["B", 3, "floor(2.5*H)", "floor(0.5*W)"]),
    "y = Resize (x, , , t)": ("int64[4] t = {5, 3, 7, 9}", [5, 3, 7, 9]),
    "y = Resize <axes = [2, 3]> (x, , t)": ("float[2] t = {2, 2}", ["B", 3, "2*H", "2*W"]),
    "y = Resize <axes = [-1]> (x, , , t)": ("int64[1] t = {8}", ["B", 3, "H", 8]),
}


@pytest.mark.parametrize(("body", "constant", "expected"), [(b, *rest) for b, rest in RESIZED.items()])
def test_resize(body, constant, expected):
    text = f"{HEADER} g (float[B, 3, H, W] x) => (float y) <{constant}> {{ {body} }}"
    walker = OrtShapeInference(parser.parse_model(text), INT_MAX)
    walker.walk_once()
    assert dims(walker) == expected


def test_a_size_that_keeps_the_proportions_is_not_known():
    body = 'y = Resize <axes = [2, 3], keep_aspect_ratio_policy = "not_larger"> (x, , , t)'
    text = f"{HEADER} g (float[B, 3, H, W] x) => (float y) <int64[2] t = {{8, 8}}> {{ {body} }}"
    walker = OrtShapeInference(parser.parse_model(text), INT_MAX)
    walker.walk_once()
    assert len(dims(walker)) == 4
    assert not {8, "H", "W"} & set(dims(walker))


def test_gathernd_with_batch_dims():
    walker = inference("y = GatherND <batch_dims = 1> (x, i)", "float[B, S, 8] x, int64[B, 3, 1] i")
    assert dims(walker) == ["B", 3, 8]


@pytest.mark.parametrize(
    ("bits", "table", "expected"),
    [(4, "uint8[99, 16] x", 32), (8, "uint8[99, 16] x", 16), (4, "int4[99, 16] x", 16)],
)
def test_a_lookup_of_few_bits_gives_as_many_numbers_as_its_bytes_hold(bits, table, expected):
    body = f"y = com.microsoft.GatherBlockQuantized <bits = {bits}, gather_axis = 0, quantize_axis = 1> (x, i, s)"
    walker = inference(body, f"{table}, int64[B, S] i, float16[99, 1] s")
    assert dims(walker) == ["B", "S", expected]
    assert walker.values["y"].type.tensor_type.elem_type == TensorProto.FLOAT16


def test_a_product_of_few_bits_has_the_columns_that_it_says():
    walker = inference("y = com.microsoft.MatMulBnb4 <K = 8, N = 5, block_size = 16, quant_type = 0> (x, x, x)")
    assert dims(walker) == ["B", "S", 5]


def test_a_large_constant_is_not_computed():
    walker = inference("s = Constant <value_ints = [1000000]> ()  y = ConstantOfShape (s)")
    assert "y" not in walker.contents


def test_contents_are_kept_as_asked():
    model = parser.parse_model(f"{HEADER} g (float[B, S, 8] x) => (int64[3] y) {{ y = Shape (x) }}")
    kept, forgotten = OrtShapeInference(model, INT_MAX), OrtShapeInference(model, INT_MAX)
    forgotten.limit_contents(lambda value: False)
    kept.walk_once()
    forgotten.walk_once()
    assert [str(extent) for extent in kept.contents["y"]] == ["B", "S", "8"]
    assert "y" not in forgotten.contents
    assert kept.symbols["S"] == sympy.Symbol("S", integer=True, positive=True)
    assert [item.version for item in kept.opset_import if not item.domain] == [18]


def test_hooks_are_called_and_have_the_last_word():
    class Hooked(OrtShapeInference):
        nodes, merged, suggested = [], [], []

        def infer_node(self, node):
            self.nodes.append(node.op_type)
            super().infer_node(node)

        def merge_extents(self, extents):
            self.merged.append([str(extent) for extent in extents])
            return super().merge_extents(extents)

        def suggest_merge(self, extents, apply=False):
            self.suggested.append(sorted(map(str, extents)))
            super().suggest_merge(extents, apply)

    walker = inference("y = Add (x, z)", "float[B, S, 8] x, float[B, T, 8] z", Hooked)
    assert walker.nodes[0] == "Add"
    assert ["S", "T"] in walker.suggested
    assert dims(walker)[0] == "B"
    inference("y = Concat <axis = 0> (x, z)", "float[B, S, 8] x, float[B, T, 8] z", Hooked)
    assert ["S", "T"] in [sorted(extents) for extents in Hooked.merged]


def test_a_rule_may_be_given_and_names_an_output():
    model = parser.parse_model(f"{HEADER} g (float[B, S, 8] x) => (float y) {{ y = Relu (x) }}")
    walker = OrtShapeInference(model, INT_MAX)
    walker.rules["Relu"] = lambda node: walker.set_output(
        node, 0, [walker.input_shape(node, 0)[0], walker.new_extent(node, 0, 1)]
    )
    walker.walk_once()
    assert dims(walker)[0] == "B"
    assert dims(walker)[1] not in ("B", "S", 8)
    assert not walker.constants


def test_a_rank_that_no_engine_knows_is_refused():
    walker = OrtShapeInference(parser.parse_model(f"{HEADER} g (float[B] x) => (float y) {{ y = Relu (x) }}"), INT_MAX)
    (node,) = walker.out_mp_.graph.node
    with pytest.raises(AssertionError, match="rank 65"):
        walker._new_symbolic_shape(65, node)


def test_torch_is_not_imported():
    code = "import sys, passes.shapes.ort_inference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
