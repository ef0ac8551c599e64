"""How many tokens int8 is measured on, and what it makes of models that depend on their extents."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from models.dialects import DIALECTS
from passes.base import PassResult
from passes.graph_io import import_graph
from passes.packed_model import PackedModel
from passes.precision.float_to_int8 import FloatToInt8
from passes.precision.int8_measure import observe
from passes.precision.int8_sites import find_products
from poprt.converter import Converter
from poprt.sample_data import model_inputs, random_array
from poprt_format.packing import ACROSS_ROWS, WITHIN_ROWS
from tests.numerics import run
from tests.passes.rewrites import parse

RNG = np.random.default_rng(0)
Shapes = list[dict[str, list[int]]]


def measured(model: onnx.ModelProto) -> tuple[Shapes, PassResult]:
    """The extents that sample data was asked for, and the result."""
    asked: Shapes = []

    def data(signature: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        shapes = {info.name: info.concrete() for info in model_inputs(signature)}
        asked.append({name: list(shape) for name, shape in shapes.items()})
        rng = np.random.default_rng(1)
        return {info.name: random_array(info, info.concrete(), rng) for info in model_inputs(signature)}

    result = FloatToInt8(data=data).apply(import_graph(model))
    return asked, result


def baked(batch: int, tail: str, shape: list[int]) -> onnx.ModelProto:
    text = f"g (float[{batch},6,96] x) => (float y) {{ p = MatMul (x, w)  {tail} }}"
    model = parse(text)
    model.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((96, 80)).astype(np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "shape"))
    return model


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_a_large_fixed_batch_is_measured_on_two_samples(dialect: str) -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="token", dialect=dialect))
    shapes = {value.name: [16, 24] for value in model.graph.input}
    fixed = Converter(input_shape=shapes).convert(model)
    baked_shapes = [numpy_helper.to_array(tensor) for tensor in fixed.graph.initializer if tensor.dims == [4]]
    assert any(shape[0] == 16 for shape in baked_shapes)
    asked, result = measured(fixed)
    assert [extents["input_ids"] for extents in asked] == [[2, 24]]
    assert result.counts["products in int8"] == 12
    assert float(result.details["cosine of logits"]) > 0.9999


@pytest.mark.parametrize(
    ("tail", "shape"), [("y = Reshape (p, shape)", [96, 80]), ("q = Expand (p, shape)  y = Neg (q)", [16, 6, 80])]
)
def test_constant_shapes_follow_the_batch(tail: str, shape: list[int]) -> None:
    asked, result = measured(baked(16, tail, shape))
    assert asked == [{"x": [2, 6, 96]}]
    assert result.counts == {"products in int8": 1}
    assert "cosine of y" in result.details


def test_a_model_that_depends_on_its_batch_in_another_way_is_measured_as_declared() -> None:
    asked, result = measured(baked(16, "t = Transpose <perm = [1, 0, 2]> (p)  y = Reshape (t, shape)", [6, 1280]))
    assert asked == [{"x": [2, 6, 96]}, {"x": [16, 6, 96]}]
    assert result.counts == {"products in int8": 1}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_small_batch_is_measured_once(batch: int) -> None:
    assert measured(baked(batch, "y = Reshape (p, shape)", [-1, 80]))[0] == [{"x": [batch, 6, 96]}]


def test_the_written_model_keeps_its_constant_shapes() -> None:
    model = baked(16, "y = Reshape (p, shape)", [96, 80])
    data = {"x": RNG.standard_normal((16, 6, 96)).astype(np.float32)}
    converted = FloatToInt8(
        data=lambda signature: {"x": data["x"][: signature.graph.input[0].type.tensor_type.shape.dim[0].dim_value]}
    ).run(model)
    assert run(converted, data)["y"].shape == (96, 80)
    assert [list(numpy_helper.to_array(t)) for t in converted.graph.initializer if t.name == "shape"] == [[96, 80]]


def packed(layout: str) -> onnx.ModelProto:
    model = build_bert(BertConfig(**SIZES["tiny"], head="token", position_ids=True))
    shapes = {value.name: [16, 128] for value in model.graph.input}
    packing = {"max_valid_num": 40, "segment_max_size": 128}
    used = ["insert_attention_mask"] if layout == WITHIN_ROWS else []
    return Converter(input_shape=shapes, pack_args=packing, used_passes=used).convert(model)


def test_a_packed_model_is_measured_on_a_small_pack_of_short_samples() -> None:
    model = packed(ACROSS_ROWS)
    asked: list[onnx.ModelProto] = []

    def data(signature: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        asked.append(signature)
        rng = np.random.default_rng(1)
        feeds = {info.name: random_array(info, info.concrete(), rng) for info in model_inputs(signature)}
        feeds["unpack_info"][:, 0] = [40, 20, 30, 10, 0, 0, 0, 0]
        return feeds

    result = FloatToInt8(data=data).apply(import_graph(model))
    assert len(asked) == 1
    shapes = {info.name: info.shape for info in model_inputs(asked[0])}
    assert shapes["input_ids"] == (2, 64)
    assert shapes["unpack_info"] == (8, 1)
    small = PackedModel.read(asked[0])
    assert small is not None
    assert (small.rows, small.columns, small.segment_max_size, small.max_valid_num) == (2, 64, (64,), 8)
    assert result.counts["products in int8"] == 12
    assert float(result.details["cosine of logits"]) > 0.9999


def test_a_model_packed_within_rows_is_measured_as_declared() -> None:
    model = packed(WITHIN_ROWS)
    asked, result = measured(model)
    assert [extents["input_ids"] for extents in asked] == [[16, 128]]
    assert result.counts["products in int8"] == 12


@pytest.mark.parametrize("shape", [(0, 96), (1, 96), (200, 96), (64, 64, 96), (96,)])
def test_rows_are_looked_at_from_all_over_an_activation(shape: tuple[int, ...]) -> None:
    letters = ",".join([*"abcd"[: len(shape) - 1], "96"])
    model = parse(f"g (float[{letters}] x) => (float y) {{ y = MatMul (x, w) }}")
    model.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((96, 80)).astype(np.float32), "w"))
    graph = import_graph(model)
    x = RNG.standard_normal(shape).astype(np.float32)
    outputs, rows = observe(graph, find_products(graph, PassResult()), [{"x": x}])
    assert set(outputs) == {"y"}
    flat, observed = x.reshape(-1, 96), rows["x"]
    assert min(len(flat), 86) <= len(observed) <= 255
    places = [int(np.flatnonzero((flat == row).all(axis=1))[0]) for row in observed]
    assert len(set(places)) == len(places)
    if len(shape) == 3:
        assert len({place % 64 for place in places}) > 32
