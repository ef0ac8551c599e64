"""What the tests of single passes share: models from text, running a pass, the operator list."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx
import onnx.parser

from passes.base import GraphPass
from passes.packed_model import PackedModel
from poprt_format.packing import ACROSS_ROWS


def parse(text: str, *, opset: int = 17) -> onnx.ModelProto:
    """A model from onnx's text form of its graph (and functions)."""
    domains = f'"" : {opset}, "ai.graphcore" : 1, "com.microsoft" : 1, "local" : 1'
    return onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{domains}]>\n{text}")


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def say_packed(model: onnx.ModelProto, **fields: Any) -> None:
    """Let ``model`` say that it is packed across rows, as if a packing pass had made it."""
    packed = PackedModel(
        layout=ACROSS_ROWS,
        rows=2,
        columns=8,
        max_valid_num=3,
        segment_max_size=(8,),
        unpack_info="",
        dynamic_inputs=(model.graph.input[0].name,),
        mask="",
        position_ids="",
        outputs={},
        shape_agnostic=True,
    )
    dataclasses.replace(packed, **fields).write(model)


def rewritten(step: GraphPass, model: onnx.ModelProto, *, full_check: bool = True) -> onnx.ModelProto:
    """The model after ``step``; checked, and a second run must change nothing."""
    once = step.run(copy_of(model))
    onnx.checker.check_model(once, full_check=full_check)
    assert step.run(copy_of(once)).SerializeToString() == once.SerializeToString()
    return once


def ops(graph: onnx.ModelProto | onnx.GraphProto | onnx.FunctionProto) -> list[str]:
    """The operators in order."""
    return [node.op_type for node in (graph.graph if isinstance(graph, onnx.ModelProto) else graph).node]


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """The declared extents; "" where there is none."""
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]


def declared(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """The declared shapes of all tensors by name."""
    graph = model.graph
    return {value.name: shape_of(value) for value in (*graph.input, *graph.value_info, *graph.output)}
