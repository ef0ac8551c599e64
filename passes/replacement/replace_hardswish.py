"""HardSwish, as what opsets before 14 have."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.registry import register
from passes.rewriting import NodeRewrite, Site


@register("replace_hardswish")
class ReplaceHardswish(NodeRewrite):
    """Replaces HardSwish by HardSigmoid and Mul: x * max(0, min(1, x / 6 + 1/2)).

    HardSwish of [N, C, H, W] -> HardSigmoid of [N, C, H, W] -> Mul. Local functions are left alone.
    """

    operators = ("HardSwish",)
    what = "HardSwishs replaced"

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Replace; see the class."""
        make, data = site.builder(node), node.inputs[0]
        gate = make.add("HardSigmoid", "gate", [data], data.dtype, alpha=1 / 6, beta=0.5)
        make.add("Mul", "gated", [data, gate], into=site.release(node))
