"""The names that scripts import, and programs in the style of such scripts."""

import onnx
import pytest
from onnx import helper

import poprt
from poprt import Pass
from poprt.frontend import get_frontend
from poprt.optimizer import Optimizer
from poprt.passes import register_shape_func
from poprt.passes.onnx_helper import clean_info, get_dtype, get_shape, topological_sort
from poprt.passes.pattern_helper import PatternMatcher
from poprt.passes.shape_inference import infer_shapes
from poprt.profile import get_model_flops
from tests.passes.rewrites import declared, ops, parse

MODEL = """
g (float[2, 3] x) => (float[2, 5] y) <float[3, 5] w = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14}, float[5] b = {1,2,3,4,5}>
{
  m = MatMul(x, w)
  a = Add(m, b)
  y = Relu(a)
}
"""


@pytest.mark.parametrize("name", poprt.__all__)
def test_every_public_name_resolves(name):
    assert getattr(poprt, name) is not None


def test_names_that_scripts_use_are_public():
    modules = "backend compiler converter runtime optimizer passes profile utils frontend"
    names = "Converter Pass PassManager Backend get_pass get_registered_passes get_frontend __version__"
    assert set(f"{modules} {names}".split()) <= set(poprt.__all__)


def test_passes_hold_the_names_that_scripts_import():
    names = "register Pass PassManager get_pass get_registered_passes register_shape_func ShapeFunc"
    assert all(hasattr(poprt.passes, name) for name in names.split())
    assert poprt.passes.base_pass.Pass is poprt.Pass
    assert poprt.passes.shape_inference.register is register_shape_func


class SubForAdd(Pass):
    """A pass in the style of scripts: it overrides __call__ and edits the graph while it searches."""

    def __call__(self, model):
        matcher = PatternMatcher(["s:0->MatMul:1->Add:add->e:3"])
        while match := matcher.next_pattern(model.graph):
            old = match["add"]
            new = helper.make_node("Sub", list(old.node.input), ["minus"], name="minus")
            for node in model.graph.node:
                for index, name in enumerate(node.input):
                    if name == old.node.output[0]:
                        node.input[index] = "minus"
            model.graph.node.insert(0, new)
            model.graph.node.remove(old.node)
        in_order = topological_sort(model.graph)
        model.graph.ClearField("node")
        model.graph.node.extend(in_order)
        return infer_shapes(clean_info(model))


def test_a_pass_that_edits_what_it_finds_runs_among_others():
    model = poprt.PassManager([SubForAdd(), "eliminate_identity"]).run(parse(MODEL))
    onnx.checker.check_model(model, full_check=True)
    assert ops(model) == ["MatMul", "Sub", "Relu"]
    assert (get_shape(model.graph, "minus"), get_dtype(model.graph, "minus")) == ([2, 5], onnx.TensorProto.FLOAT)


def test_a_transform_may_ask_whether_it_has_the_main_graph():
    branches = "<then_branch = t () => (float[2] p) { p = Neg(x) }, else_branch = e () => (float[2] q) { q = Relu(x) }>"
    model = parse(f"g (float[2] x, bool c) => (float[2] y) {{ i = If {branches} (c) y = Abs(i) }}")
    seen = []

    def both(graph, is_main_graph):
        seen.append((graph.name, is_main_graph))
        return graph

    def one(graph):
        seen.append(graph.name)
        return graph

    Pass().traverse_graph(model.graph, both)
    Pass().traverse_graph(model.graph, one)
    assert seen == [("t", False), ("e", False), ("g", True), "t", "e", "g"]


def test_the_optimizer_runs_passes_by_name():
    model = Optimizer(["extract_constant_to_initializer"]).run(
        parse("g (float[2] x) => (float[2] y) { c = Constant<value = float[2] {1.0, 2.0}>() y = Add(x, c) }")
    )
    assert ops(model) == ["Add"]
    assert declared(model)["y"] == [2]


def test_flops_are_two_for_each_multiply_add():
    assert get_model_flops(parse(MODEL)) == 2 * 2 * 3 * 5


def test_fused_attention_counts_scores_and_context_over_the_keys():
    attention = "g (float[2, 5, 8] q, float[2, 7, 8] k) => (float[2, 5, 8] y)"
    model = parse(f"{attention} {{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, k) }}")
    assert get_model_flops(model) == 2 * 2 * (2 * 5 * 7 * 8)


def test_fused_attention_with_weights_counts_its_projections_too():
    weights = "float[8, 24] w, float[24] b"
    model = parse(
        f"g (float[2, 5, 8] x, {weights}) => (float[2, 5, 8] y)"
        "{ y = com.microsoft.Attention <num_heads = 2> (x, w, b) }"
    )
    assert get_model_flops(model) == 2 * (2 * 5 * 8 * 24) + 2 * 2 * (2 * 5 * 5 * 8)


def test_gemm_and_conv_count_what_they_contract():
    model = parse(
        "g (float[2, 3] x, float[3, 4] w, float[1, 2, 8] s, float[6, 2, 3] k) => (float[2, 4] y, float[1, 6, 6] z)"
        "{ y = Gemm(x, w) z = Conv(s, k) }"
    )
    assert get_model_flops(model) == 2 * 2 * 3 * 4 + 2 * (6 * 6) * (2 * 3)


def test_verbose_flops_print_each_operator_type(capsys):
    assert get_model_flops(parse(MODEL), True) == 60
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["MatMul", "60", "FLOPs"], ["total", "60", "FLOPs"]]


def test_flops_of_a_model_with_open_shapes_are_an_error_that_names_the_input():
    with pytest.raises(poprt.errors.PoprtError, match=r"input 'x' has an open extent.*input_shape"):
        get_model_flops(parse(MODEL.replace("float[2, 3] x", "float[n, 3] x")))


def test_a_product_of_unknown_size_is_a_warning_that_names_it(caplog):
    model = parse("g (float[2, 3] x) => (float[?, ?] y) { u = local.Unknown(x) y = MatMul(u, u) }")
    assert get_model_flops(model) == 0
    assert "1 matrix products of unknown size" in caplog.text


def test_a_frontend_loads_a_file(tmp_path):
    onnx.save(parse(MODEL), tmp_path / "model.onnx")
    assert get_frontend(tmp_path / "model.onnx").load_model() == parse(MODEL)


def test_a_frontend_names_the_file_that_it_cannot_read(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(poprt.errors.PoprtError, match=name):
            get_frontend(str(tmp_path / name)).load_model()


def test_a_frontend_reads_no_other_framework():
    with pytest.raises(poprt.errors.PoprtError, match="framework 'tensorflow' is not read"):
        get_frontend("model.pb", framework="tensorflow")
