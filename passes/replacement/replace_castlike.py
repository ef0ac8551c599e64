"""CastLike, as a Cast to the type that is known."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.cleanup.rewiring import onnx_dtype
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import NodeRewrite, Site


@register("replace_castlike")
class ReplaceCastlike(NodeRewrite):
    """Replaces CastLike by Cast.

    CastLike of [B, S] int64 and any float tensor -> Cast of [B, S] to float. Leaves alone, with a reason, a CastLike to
    a type that is not known. Local functions are left alone: their types are those of the call.
    """

    operators = ("CastLike",)
    what = "casts replaced"
    typed = True

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Replace; see the class."""
        target = onnx_dtype(node.inputs[1])
        if target is None:
            raise refused(f"the type of {node.inputs[1].name!r} is not known")
        make, data, attrs = site.builder(node), node.inputs[0], dict(node.attrs)
        make.add("Cast", "cast", [data], into=site.release(node), to=target, **attrs)
