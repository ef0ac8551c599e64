"""Packing models whose matrices and tables have 4 or 8 bits a number, in blocks with a scale each."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from passes.packing.isolation.company import ANY
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.isolation_bench import Bench
from tests.passes.packing.packs import (
    COLUMNS,
    HIDDEN,
    PACK_ARGS,
    ROWS,
    around,
    assert_each_is_right,
    metadata,
    packed,
    run_declared,
    run_ragged,
    samples,
    why_unpacked,
    with_constants,
)
from tests.passes.packing.shared_rows import assert_rows_are_right, row_lengths

BLOCK, VOCAB = 16, 64
RNG = np.random.default_rng(3)


def levels(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def scales(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.uniform(0.01, 0.05, shape).astype(np.float32)


#: A matrix [8, 8] of 4 and of 8 bits: a row a column of the product, a block (8 of 16 are used). Tables [64, 8].
CONSTANTS: dict[str, np.ndarray[Any, Any]] = {
    "B4": levels(HIDDEN, 1, BLOCK // 2),
    "B8": levels(HIDDEN, 1, BLOCK),
    "S": scales(HIDDEN),
    "bias": RNG.normal(size=HIDDEN).astype(np.float32),
    "FP4": levels(HIDDEN * HIDDEN // 2),
    "absmax": scales(HIDDEN * HIDDEN // BLOCK) * 20,
    "T4": levels(VOCAB, HIDDEN // 2),
    "T8": levels(VOCAB, HIDDEN),
    "TS": scales(VOCAB, 1),
}
_NBITS = f"com.microsoft.MatMulNBits <K = {HIDDEN}, N = {HIDDEN}, block_size = {BLOCK}"
_LOOKUP = f"com.microsoft.GatherBlockQuantized <block_size = {BLOCK}, quantize_axis = 1, gather_axis = 0"
_PLACES = "s = Shape <start = 1, end = 2> (ids)  n = Squeeze (s, zero)  r = Range (scalar_zero, n, scalar_one)"
#: Lines that make ``t``, which must run packed, and ``y`` of it.
CASES = {
    "4 bits": f"t = {_NBITS}, bits = 4> (x, B4, S)  y = Relu (t)",
    "4 bits, with a bias": f"t = {_NBITS}, bits = 4> (x, B4, S, , , bias)  y = Relu (t)",
    "8 bits": f"t = {_NBITS}, bits = 8> (x, B8, S)  y = Relu (t)",
    "fp4": f"t = com.microsoft.MatMulBnb4 <K = {HIDDEN}, N = {HIDDEN}, block_size = {BLOCK}, quant_type = 0> "
    "(x, FP4, absmax)  y = Relu (t)",
    "a table of 4 bits": f"t = {_LOOKUP}, bits = 4> (T4, ids, TS)  y = Add (x, t)",
    "a table of 8 bits": f"t = {_LOOKUP}, bits = 8> (T8, ids, TS)  y = Add (x, t)",
    "a table of positions": f"{_PLACES}  r1 = Unsqueeze (r, zero)  p = {_LOOKUP}, bits = 8> (T8, r1, TS)"
    "  t = Add (x, p)  y = Relu (t)",
}
#: So that there is something to mask within rows.
HEAD = """
    turned = Transpose <perm = [0, 2, 1]> (y)  raw = MatMul (y, turned)  key = Unsqueeze (keep, one)
    on = Constant <value_float = 1.0> ()  off = Sub (on, key)  far = Constant <value_float = -1e9> ()
    hidden = Mul (off, far)  masked = Add (raw, hidden)  weights = Softmax (masked)  pooled = MatMul (weights, x)
"""
cases = pytest.mark.parametrize("case", CASES)


def built(case: str, head: str = "") -> onnx.ModelProto:
    return with_constants(around(CASES.get(case, case), head=head), CONSTANTS)


@cases
def test_they_run_packed_and_give_what_each_sample_gives_alone(case: str) -> None:
    model = built(case)
    assert why_unpacked(model, "t") is None
    packed_model = packed(model)
    assert metadata(packed_model)["neighbours"] == ANY
    assert_each_is_right(run_declared(packed_model, samples()), model, samples())


@pytest.mark.parametrize("case", ["4 bits", "a table of positions"])
def test_the_executable_over_real_tokens_alone_gives_the_same(case: str) -> None:
    model = built(case)
    assert_each_is_right(run_ragged(model, samples()), model, samples())


@cases
def test_samples_that_share_rows_give_what_each_gives_alone(case: str) -> None:
    assert_rows_are_right(built(case, HEAD), samples(row_lengths()), "mask")


@pytest.mark.parametrize("case", ["4 bits", "8 bits", "fp4"])
def test_their_work_counts_as_that_of_a_matrix_product(case: str) -> None:
    said = metadata(packed(built(case)))
    assert said["packed_flops"] == 2 * 2 * ROWS * COLUMNS * HIDDEN * HIDDEN  # x, and t


def test_a_product_between_unpacked_nodes_is_worth_its_crossings() -> None:
    attention = "tr = Transpose <perm = [0, 2, 1]> (x)  sc = MatMul (x, tr)  w = Softmax (sc)  h = MatMul (w, x)"
    product = CASES["4 bits"].split("  ")[0].replace("(x,", "(h,")
    model = built(f"{attention}  {product}  y = Relu (x)", "pooled = ReduceSum <keepdims = 0> (t, one)")
    assert metadata(packed(model))["packed_flops"] == 2 * 2 * ROWS * COLUMNS * HIDDEN * HIDDEN  # x, and t


@pytest.mark.parametrize("case", ["4 bits", "a table of 4 bits"])
def test_a_model_of_fixed_shape_is_opened(case: str) -> None:
    model = built(case)
    for value in model.graph.input:
        for dim, extent in zip(value.type.tensor_type.shape.dim, (ROWS, COLUMNS), strict=True):
            dim.dim_value = extent
    assert_each_is_right(run_declared(packed(model), samples()), built(case), samples())


def test_a_table_of_positions_is_read_packed_by_its_indices() -> None:
    packed_model = packed(built("a table of positions"))
    lookups = [node for node in packed_model.graph.node if node.op_type == "GatherBlockQuantized"]
    repacked = {name for node in packed_model.graph.node if node.op_type == "Repack" for name in node.output}
    assert any(node.input[1] in repacked for node in lookups)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("4 bits", 2e-5),
        (CASES["4 bits"].replace("bits = 4", "bits = 4, accuracy_level = 1"), 2e-5),
        (CASES["4 bits"].replace("bits = 4", "bits = 4, accuracy_level = 4"), 5e-2),
        ("a table of 4 bits", 2e-5),
    ],
    ids=["level unset", "level of float32", "level of int8", "a table"],
)
def test_a_trial_allows_for_rounding_where_what_is_read_is_rounded_to_8_bits_as_it_runs(
    case: str, expected: float
) -> None:
    shapes = {name: [ROWS, COLUMNS] for name in ("ids", "mask")}
    converter = Converter(input_shape=shapes, pack_args=PACK_ARGS, skip_isolation_check=True)
    assert Bench(Compiler.compile(converter.convert(built(case)))).rounding == expected
