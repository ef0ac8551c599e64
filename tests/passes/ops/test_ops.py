"""The operators of our domain against their numpy references, in stock onnxruntime."""

import subprocess
import sys

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from passes.errors import RewriteError
from passes.ops import DOMAIN, MINIMUM_OPSET, attach_functions, attention_mask, function_body, repack, unpack
from tests.numerics import run

OPSETS = (15, 17, 18, 21, 23)
DTYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")


def value(name, dtype, rank):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, [f"{name}_{axis}" for axis in range(rank)])


def bare_model(node, inputs, outputs, opset=17):
    """A model of one node of our domain that nobody gave a body yet."""
    graph = helper.make_graph([node], "bare", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def with_bodies(model):
    attach_functions(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def unpack_model(dtype, rank, segments, samples, opset=17):
    node = helper.make_node(
        "Unpack", ["x", "info"], ["y"], domain=DOMAIN, segment_max_size=segments, max_valid_num=samples
    )
    return bare_model(node, [value("x", dtype, rank), value("info", "int32", 2)], [value("y", dtype, rank)], opset)


def repack_model(dtype, rank, segments, samples, opset=17):
    node = helper.make_node(
        "Repack", ["y", "like", "info"], ["x"], domain=DOMAIN, segment_max_size=segments, max_valid_num=samples
    )
    inputs = [value("y", dtype, rank), value("like", "int32", 2), value("info", "int32", 2)]
    return bare_model(node, inputs, [value("x", dtype, rank)], opset)


def mask_model(data_type, dtype="int64", opset=17):
    node = helper.make_node("AttentionMask", ["mask", "ref"], ["m"], domain=DOMAIN, dataType=data_type)
    mask_dtype = {"FLOAT": "float32", "FLOAT16": "float16"}[data_type]
    return bare_model(node, [value("mask", dtype, 2), value("ref", "float32", 3)], [value("m", mask_dtype, 4)], opset)


@st.composite
def packs(draw):
    """A token stream [R, C, ...], the lengths of its samples, and the segments."""
    segments = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    samples = draw(st.integers(1, 5))
    info = np.array([[draw(st.integers(0, size)) for size in segments] for _ in range(samples)], np.int32)
    columns = draw(st.integers(1, 6))
    rows = max(1, -(-int(info.sum()) // columns) + draw(st.integers(0, 1)))
    rest = draw(st.sampled_from([(), (3,), (2, 2)]))
    dtype = draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 2**16))
    x = np.random.default_rng(seed).integers(0, 100, (rows, columns, *rest)).astype(dtype)
    return x, info, segments


@settings(max_examples=40, deadline=None)
@given(packs(), st.sampled_from(OPSETS))
def test_unpack_gives_what_its_reference_gives(pack, opset):
    x, info, segments = pack
    model = with_bodies(unpack_model(x.dtype, x.ndim, segments, len(info), opset))
    np.testing.assert_array_equal(run(model, {"x": x, "info": info})["y"], unpack.reference(x, info, segments))


@settings(max_examples=40, deadline=None)
@given(packs(), st.sampled_from(OPSETS))
def test_repack_gives_what_its_reference_gives_whatever_lies_in_unused_places(pack, opset):
    x, info, segments = pack
    rows_and_columns = x.shape[:2]
    y = np.random.default_rng(1).integers(1, 100, (len(info), sum(segments), *x.shape[2:])).astype(x.dtype)
    model = with_bodies(repack_model(x.dtype, x.ndim, segments, len(info), opset))
    got = run(model, {"y": y, "like": np.zeros(rows_and_columns, np.int32), "info": info})["x"]
    np.testing.assert_array_equal(got, repack.reference(y, rows_and_columns, info, segments))


@settings(max_examples=40, deadline=None)
@given(packs())
def test_repack_undoes_unpack_up_to_the_unused_tail_which_becomes_zero(pack):
    x, info, segments = pack
    sizes = {"segment_max_size": segments, "max_valid_num": len(info), "domain": DOMAIN}
    nodes = [
        helper.make_node("Unpack", ["x", "info"], ["y"], **sizes),
        helper.make_node("Repack", ["y", "x", "info"], ["z"], **sizes),
    ]
    graph = helper.make_graph(
        nodes, "both", [value("x", x.dtype, x.ndim), value("info", "int32", 2)], [value("z", x.dtype, x.ndim)]
    )
    model = with_bodies(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    got = run(model, {"x": x, "info": info})["z"].reshape(-1, *x.shape[2:])
    used = int(info.sum())
    np.testing.assert_array_equal(got[:used], x.reshape(-1, *x.shape[2:])[:used])
    assert not got[used:].any()


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_lengths_may_be_of_either_integer_type_and_all_zero(dtype):
    model = unpack_model("float32", 2, [4], 2)
    model.graph.input[1].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    got = run(with_bodies(model), {"x": np.ones((1, 4), np.float32), "info": np.zeros((2, 1), dtype)})["y"]
    assert got.shape == (2, 4)
    assert not got.any()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda rows: st.integers(1, 6).flatmap(
            lambda columns: st.lists(
                st.lists(st.integers(0, 4), min_size=columns, max_size=columns), min_size=rows, max_size=rows
            )
        )
    ),
    st.sampled_from(["FLOAT", "FLOAT16"]),
    st.sampled_from(["int32", "int64", "float32", "float16"]),
    st.sampled_from(OPSETS),
)
def test_attention_mask_gives_what_its_reference_gives(numbers, data_type, dtype, opset):
    mask = np.array(numbers, dtype)
    model = with_bodies(mask_model(data_type, dtype, opset))
    got = run(model, {"mask": mask, "ref": np.zeros((1, 1, 1), np.float32)})["m"]
    want = attention_mask.reference(mask, np.float32 if data_type == "FLOAT" else np.float16)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("data_type", ["FLOAT", "FLOAT16"])
def test_attention_mask_is_exactly_zero_where_allowed_and_finite_elsewhere(data_type):
    mask = np.array([[1, 1, 2, 0]])
    got = run(with_bodies(mask_model(data_type)), {"mask": mask, "ref": np.zeros((1, 1, 1), np.float32)})["m"]
    allowed = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(got[0, 0] == 0, np.array(allowed, bool))
    assert np.isfinite(got).all()
    assert (got[got != 0] < -1000).all()


def test_attaching_bodies_twice_changes_nothing_the_second_time():
    model = unpack_model("float32", 3, [4], 2)
    attach_functions(model)
    once = model.SerializeToString(deterministic=True)
    attach_functions(model)
    assert model.SerializeToString(deterministic=True) == once


def test_bodies_are_attached_for_nodes_inside_branches_as_well():
    branch = helper.make_graph(
        [helper.make_node("Unpack", ["x", "info"], ["b"], domain=DOMAIN, segment_max_size=[2], max_valid_num=1)],
        "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 2])],
    )  # fmt: skip
    node = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    model = bare_model(
        node, [condition, value("x", "float32", 2), value("info", "int32", 2)], [value("y", "float32", 2)]
    )
    attach_functions(model)
    feeds = {
        "condition": np.array(True),
        "x": np.array([[7, 8]], np.float32),
        "info": np.array([[1]], np.int32),
    }
    np.testing.assert_array_equal(run(model, feeds)["y"], [[7, 0]])


def test_a_model_without_our_operators_is_left_as_it_is():
    model = bare_model(helper.make_node("Relu", ["x"], ["y"]), [value("x", "float32", 2)], [value("y", "float32", 2)])
    before = model.SerializeToString()
    attach_functions(model)
    assert model.SerializeToString() == before


def test_an_unknown_operator_is_named_with_the_known_ones():
    node = helper.make_node("Pack", ["x"], ["y"], domain=DOMAIN)
    model = bare_model(node, [value("x", "float32", 2)], [value("y", "float32", 2)])
    with pytest.raises(
        RewriteError, match=r"ai\.graphcore\.Pack is not known; known are AttentionMask, ErfV2, FastNorm, .*"
    ):
        attach_functions(model)


def test_a_body_for_an_opset_that_is_too_old_is_refused():
    with pytest.raises(RewriteError, match=f"needs opset {MINIMUM_OPSET} or newer, the model has {MINIMUM_OPSET - 1}"):
        function_body("Unpack", MINIMUM_OPSET - 1)


def test_stock_onnxruntime_runs_the_operators_in_a_process_that_never_loads_us(tmp_path):
    model = with_bodies(unpack_model("float32", 2, [3], 2))
    assert gs.import_onnx(model).functions
    onnx.save(model, tmp_path / "model.onnx")
    script = f"""
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession({str(tmp_path / "model.onnx")!r}, providers=["CPUExecutionProvider"])
feeds = {{"x": numpy.array([[1, 2, 3, 4]], "float32"), "info": numpy.array([[1], [2]], "int32")}}
assert session.run(None, feeds)[0].tolist() == [[1, 0, 0], [2, 3, 0]]
assert not [name for name in sys.modules if name.split(".")[0] in ("poprt", "passes", "onnx")]
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
