"""AttentionMask: samples that share a row see themselves and nobody else."""

from __future__ import annotations

import numpy as np
from onnx.defs import OpSchema

from passes.ops.common import DOMAIN, tensor_types

#: What is added to a forbidden score. Finite in fp16 with room to add a score, so that no row becomes all -inf.
FORBIDDEN = -10000.0

SCHEMA = OpSchema(
    "AttentionMask",
    DOMAIN,
    1,
    doc="0 where query and key carry the same non-zero sample number, a large negative finite value elsewhere.",
    inputs=[
        OpSchema.FormalParameter("mask", "I", "[R, C]: the number of the sample that owns the place, 0 for none"),
        OpSchema.FormalParameter("ref", "T", "not read; keeps the operator beside what it masks"),
    ],
    outputs=[OpSchema.FormalParameter("m", "F", "[R, 1, C, C]")],
    type_constraints=[
        ("I", ["tensor(int32)", "tensor(int64)", "tensor(float)", "tensor(float16)"], "sample numbers"),
        ("T", tensor_types(), "any"),
        ("F", ["tensor(float)", "tensor(float16)"], "as dataType says"),
    ],
    attributes=[
        OpSchema.Attribute("dataType", OpSchema.AttrType.STRING, "FLOAT or FLOAT16", required=True),
        OpSchema.Attribute("to", OpSchema.AttrType.INT, "dataType as an ONNX element type", required=False),
    ],
)

#: The operator in standard operators. A function body cannot branch on a string, hence the attribute `to`.
BODY = f"""
AttentionMask <dataType, to> (mask, ref) => (m)
{{
    query_axes = Constant <value_ints = [1, 3]> ()
    key_axes = Constant <value_ints = [1, 2]> ()
    query = Unsqueeze (mask, query_axes)
    key = Unsqueeze (mask, key_axes)
    zero_number = Constant <value_float = 0.0> ()
    zero_like_mask = CastLike (zero_number, mask)
    same = Equal (query, key)
    padding = Equal (key, zero_like_mask)
    owned = Not (padding)
    allowed = And (same, owned)
    forbidden = Constant <value_float = {FORBIDDEN}> ()
    allowed_value = Constant <value_float = 0.0> ()
    additive = Where (allowed, allowed_value, forbidden)
    m = Cast <to : int = @to> (additive)
}}
"""


def reference(mask: np.ndarray, dtype: np.dtype | type = np.float32) -> np.ndarray:
    """AttentionMask in numpy: mask [R, C] -> [R, 1, C, C] of ``dtype``."""
    same = mask[:, None, :, None] == mask[:, None, None, :]
    owned = mask[:, None, None, :] != 0
    return np.where(same & owned, 0.0, FORBIDDEN).astype(dtype)
