"""Models of which the inputs alone were fixed: the graph measures them and is open inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sympy

from passes.errors import PackingError
from passes.packing.opening.length_bound import LengthBound
from passes.packing.tokens.axes import BATCH, SEQ
from poprt import runtime
from poprt.compiler import Compiler
from poprt.converter import Converter
from tests.exports import FAMILIES
from tests.numerics import Arrays, one_by_one, random_samples
from tests.passes.packing.packs import around, metadata, samples
from tests.passes.packing.test_isolation_proof import ATTENTION
from tests.passes.packing.test_unbake import small
from tests.passes.rewrites import copy_of

LAYOUTS: dict[str, list[str]] = {"across_rows": [], "within_rows": ["insert_attention_mask"]}
TOLERANCE = 1e-5
#: A buffer of 32 segments is cut to the sequence and spread to the batch: BERT without the input token_type_ids.
_SEGMENTS = """
    n = Shape <start = 1, end = 2> (ids)  s = Shape (ids)
    cut = Slice (BUFFER, zero, n, one)  segments = Expand (cut, s)
    told = Gather (T, segments)  told_x = Add (x, told)
"""
_CONSTANTS = {"BUFFER": np.arange(32)[None] % 2, "float_one": np.float32(1), "penalty": np.float32(-1e4)}


def encoder(body: str = _SEGMENTS, room: int = 32, **constants: Any) -> onnx.ModelProto:
    """Segments that the graph counts itself, and an attention. Both axes are open."""
    attention = ATTENTION.replace("(x)", "(told_x)").replace("(x,", "(told_x,").replace(", x)", ", told_x)")
    model = around(f"{body} {attention}", head="pooled = Relu (told_x)")
    for name, value in {**_CONSTANTS, **constants}.items():
        array = value[:, :room] if name == "BUFFER" else value
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for value, shape in zip(model.graph.output, (("batch", "seq", 8), ("batch", "seq", 8)), strict=True):
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))
    return model


def test_an_open_model_with_a_fixed_table_is_refused_by_the_node() -> None:
    model = around("y = Add (x, NINE)")
    with pytest.raises(PackingError, match="Add 'y' takes sequences of 9 tokens alone, whatever the inputs declare"):
        packed(model, "across_rows", shape=(3, 16))


def with_inputs(model: onnx.ModelProto, rows: int | str, columns: int | str) -> onnx.ModelProto:
    """The model with other extents declared of its inputs; nothing else is touched."""
    fixed = copy_of(model)
    for value in fixed.graph.input:
        for dim, extent in zip(value.type.tensor_type.shape.dim, (rows, columns), strict=True):
            dim.Clear()
            if isinstance(extent, int):
                dim.dim_value = extent
            else:
                dim.dim_param = extent
    return fixed


def packed(
    model: onnx.ModelProto, layout: str, most: int = 6, longest: int = 9, shape: tuple[int, int] | None = None
) -> onnx.ModelProto:
    shapes = {value.name: list(shape) for value in model.graph.input} if shape else {}
    args = {"max_valid_num": most, "segment_max_size": longest}
    return Converter(pack_args=args, used_passes=LAYOUTS[layout], input_shape=shapes).convert(copy_of(model))


def served(converted: onnx.ModelProto, chosen: list[Arrays], like: list[Arrays]) -> list[Arrays]:
    """What the pack runner answers to all samples at once."""
    with runtime.Runner(Compiler.compile(converted), runtime.PackRunnerConfig(token_budget=0)) as runner:
        buffers = [{name: np.zeros(array.shape, np.float32) for name, array in each.items()} for each in like]
        for future in [runner.execute_async(*pair) for pair in zip(chosen, buffers, strict=True)]:
            future.wait()
    return buffers


def assert_served(converted: onnx.ModelProto, original: onnx.ModelProto, chosen: list[Arrays]) -> None:
    expected = one_by_one(original, chosen)
    for got, answer in zip(served(converted, chosen, expected), expected, strict=True):
        for name, array in answer.items():
            np.testing.assert_allclose(got[name], array, atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize(
    ("extent", "decided"),
    [
        (sympy.Min(512, SEQ), SEQ),
        (sympy.Min(9, SEQ), SEQ),
        (sympy.Min(8, SEQ), sympy.Min(8, SEQ)),
        (sympy.Min(18, 2 * SEQ), 2 * SEQ),
        (sympy.Min(17, 2 * SEQ), sympy.Min(17, 2 * SEQ)),
        (sympy.Min(512, SEQ) + 1, SEQ + 1),
        (sympy.Min(512, SEQ, 2 * SEQ), SEQ),
        (sympy.Max(9, SEQ), 9),
        (sympy.Max(4, SEQ), sympy.Max(4, SEQ)),
        (sympy.Max(0, SEQ - 1), SEQ - 1),
        (sympy.Max(0, sympy.Min(512, SEQ) - 1), SEQ - 1),
        (sympy.Min(512, BATCH), sympy.Min(512, BATCH)),
        (sympy.Min(512, SEQ**2), sympy.Min(512, SEQ**2)),
        (7, 7),
    ],
    ids=str,
)
def test_the_longest_sequence_decides_what_is_the_smaller(extent: Any, decided: Any) -> None:
    assert LengthBound(9).decide(extent) == decided


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("rows", "columns"), [(3, 9), (1, 9), ("batch", 9), (3, "seq")], ids=["both", "one-row", "sequence", "batch"]
)
def test_a_model_of_which_the_inputs_alone_were_fixed_packs(layout: str, rows: Any, columns: Any) -> None:
    model = encoder()
    shape = (rows if isinstance(rows, int) else 3, 9)
    got = packed(with_inputs(model, rows, columns), layout, shape=shape)
    assert metadata(got)["shape_agnostic"] == (layout == "across_rows")
    assert_served(got, model, samples((5, 9, 1, 7, 2)))


@pytest.mark.export
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("exporter", "opset"), [("torch-old", 11), ("torch-old", 12), ("torch-old", 17), ("torch-new", None)]
)
def test_an_export_packs_with_its_sequence_or_all_its_inputs_fixed(
    layout: str, exporter: str, opset: int | None, exported: Callable[..., Path], tmp_path: Path
) -> None:
    assert exported  # skips where there is no exporter
    from tests.torch_export import write

    write(replace(FAMILIES["bert"], types=False), "hidden", exporter, "eager", tmp_path / "bert.onnx", opset=opset)
    model = onnx.load(tmp_path / "bert.onnx")
    kept = ("input_ids", "attention_mask")
    chosen = [{name: each[name] for name in kept} for each in random_samples((17, 5, 9, 24, 1, 13))]
    for rows in ("batch", 4):
        fixed = with_inputs(model, rows, 24)
        assert_served(packed(fixed, layout, 7, 24, shape=(4, 24)), model, chosen)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "open"])
def test_samples_longer_than_a_table_are_refused_and_the_advice_works(layout: str, fixed: bool) -> None:
    model = encoder(room=12)
    source = with_inputs(model, 3, 12) if fixed else model
    with pytest.raises(PackingError) as error:
        packed(source, layout, longest=13, shape=(3, 12))
    node = "Expand 'segments'" if fixed else "Slice 'cut'"
    advice = f"{node} has room for 12 tokens, and segment_max_size=13 is longer; use segment_max_size=12 or less"
    assert advice in str(error.value)
    got = packed(source, layout, longest=12, shape=(3, 12))
    assert_served(got, model, samples((5, 12, 1, 7, 2)))


def test_a_row_that_is_longer_than_a_table_is_refused_by_the_node_that_cannot_be_computed() -> None:
    with pytest.raises(PackingError, match=r"'told' cannot be computed for a sequence of 16 places .*the attention"):
        packed(encoder(room=12), "within_rows", shape=(3, 16))


_DIVIDED = "y = Div (x, length)"


def test_what_cannot_be_undone_is_said_before_what_does_not_fit() -> None:
    model = small(_DIVIDED, length=np.float32(9))
    with pytest.raises(PackingError) as error:
        packed(model, "across_rows", most=2, longest=4)  # 2 samples of 4 tokens do not fill 3 rows of 9
    assert "fixed to the shape [3, 9], which cannot be undone (Div 'y' computes with 9" in str(error.value)
    assert "use max_valid_num=3 segment_max_size=9" in str(error.value)
    assert not metadata(packed(model, "across_rows", most=3, longest=9))["shape_agnostic"]


def test_a_model_of_one_row_is_not_advised_to_pack_one_sample() -> None:
    with pytest.raises(PackingError, match=r"export it with dynamic axes$"):
        packed(with_inputs(small(_DIVIDED, length=np.float32(9)), 1, 9), "across_rows")


def test_a_model_fixed_to_a_length_alone_takes_any_number_of_samples() -> None:
    model = with_inputs(small(_DIVIDED, length=np.float32(9)), "batch", 9)
    with pytest.raises(PackingError) as error:
        packed(model, "across_rows", longest=5, shape=(3, 9))
    assert "fixed to sequences of 9 tokens, which cannot be undone" in str(error.value)
    assert str(error.value).endswith("or use segment_max_size=9")
    assert not metadata(packed(model, "across_rows", shape=(3, 9)))["shape_agnostic"]


def test_a_batch_in_which_the_model_does_not_pack_is_not_advised() -> None:
    body = """t = Constant <value_ints = [-1, 24]> ()  r = Reshape (x, t)
              u = Constant <value_ints = [3, -1, 8]> ()  y = Reshape (r, u)"""
    model = with_inputs(small(body), 3, "seq")
    obstacle = "output 'y' .* does not hold one row a sample"
    with pytest.raises(PackingError, match=f"nor does it pack in its own shape: {obstacle}"):
        packed(model, "across_rows", shape=(3, 9))
    with pytest.raises(PackingError, match=obstacle):
        packed(model, "across_rows", most=3, shape=(3, 9))


@pytest.mark.parametrize("most", [3, 6])
def test_a_model_with_a_row_for_each_sample_is_not_advised_to_pack_in_its_own_shape(most: int) -> None:
    model = small("y = Add (x, table)", table=np.arange(24, dtype=np.float32).reshape(3, 1, 8))
    with pytest.raises(PackingError, match=r"depends on its row in the batch.*Add 'y': reads 'table'"):
        packed(model, "across_rows", most=most)
