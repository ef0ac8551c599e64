"""The queries, keys and values of attention, by one product."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.fusion.attention import attention_of, projection_of
from passes.fusion.merge_products import Member, merge
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import NodeRewrite, Site


@register("fused_attention")
class FusedAttention(NodeRewrite):
    """Computes the queries, keys and values of self-attention by one MatMul.

    [B, S, H] -> three MatMuls by [H, H], each with an Add of [H], becomes [B, S, H] -> MatMul by [H, 3 H] -> Add of
    [3 H] -> Split. One without a bias gets zeros. Attention is recognised from its softmax: between scores and context.

    Leaves alone, with a reason: attention over another tensor, projections that are no products by constant matrices or
    that other nodes read, too, models below opset 13. Local functions are left alone.
    """

    operators = ("Softmax",)
    what = "projections merged"

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Merge the three; see the class."""
        attention = attention_of(node)
        operands = [*attention.scores.inputs, attention.context.inputs[attention.values]]
        projections = [projection_of(tensor, site) for tensor in operands]
        members = [Member(item.product, item.bias) for item in projections if item is not None]
        if len({id(member.product) for member in members}) < len(operands):
            raise refused("its queries, keys and values are not the results of three products by constant matrices")
        merge(members, site)
