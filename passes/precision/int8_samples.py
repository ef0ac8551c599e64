"""What to ask for as sample data: few tokens, where the model computes the same whatever its declared extents."""

from __future__ import annotations

import json
from typing import Any

import onnx

from passes.packing.metadata import METADATA_KEY

_ROWS, _COLUMNS, _SAMPLES = 2, 64, 8


def few_tokens(signature: onnx.ModelProto) -> onnx.ModelProto | None:
    """``signature`` with smaller extents for the tokens of a packed model; None where the declared ones are needed.

    Args:
        signature: a model with inputs and metadata only. It is not changed.
    """
    text = next((item.value for item in signature.metadata_props if item.key == METADATA_KEY), None)
    packing: dict[str, Any] = json.loads(text) if text else {}
    if packing.get("style") != "unpack_repack" or not packing.get("shape_agnostic"):
        return None
    sizes = [int(size) for size in packing["segment_max_size"]]
    sizes = [min(size, max(1, _COLUMNS // len(sizes))) for size in sizes]
    samples = min(int(packing["max_valid_num"]), _SAMPLES)
    small = {"rows": _ROWS, "columns": sum(sizes), "segment_max_size": sizes, "max_valid_num": samples}
    made = onnx.ModelProto()
    made.CopyFrom(signature)
    for item in made.metadata_props:
        if item.key == METADATA_KEY:
            item.value = json.dumps({**packing, **small})
    for value in made.graph.input:
        tokens = value.name in packing["dynamic_inputs"]
        extents = [_ROWS, sum(sizes)] if tokens else [samples]
        for dim, extent in zip(value.type.tensor_type.shape.dim, extents, strict=False):
            dim.dim_value = extent
    return made
