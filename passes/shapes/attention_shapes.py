"""Shapes of the standard operator Attention (opset 23)."""

from __future__ import annotations

from typing import Any

import onnx

Extents = list[Any]


def standard_attention_shapes(
    node: onnx.NodeProto, query: Extents, key: Extents, value: Extents
) -> tuple[Extents, Extents, Extents, Extents]:
    """Shapes of Y, present_key, present_value and qk_matmul_output.

    Args:
        node: the operator, without past keys.
        query, key, value: shapes, all [batch, heads, seq, head size] or all [batch, seq, heads * head size].

    Raises:
        ValueError: extents or attributes that the result depends on are missing.
    """
    if len(query) == 4:
        result = [*query[:3], value[3]]
        return result, list(key), list(value), [query[0], query[1], query[2], key[2]]
    heads = {attribute.name: attribute.i for attribute in node.attribute}
    query_heads, own_heads = heads.get("q_num_heads", 0), heads.get("kv_num_heads", 0)
    if not query_heads or not own_heads or not isinstance(key[2], int) or not isinstance(value[2], int):
        raise ValueError(f"Attention {node.name!r}: its heads or its hidden sizes are unknown")
    result = [query[0], query[1], query_heads * (value[2] // own_heads)]
    present = [[x[0], own_heads, x[1], x[2] // own_heads] for x in (key, value)]
    return result, present[0], present[1], [query[0], query_heads, query[1], key[1]]
