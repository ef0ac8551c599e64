"""Powers of small constant exponents, by plainer operators."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.arithmetic import rank_of, scalar
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import NodeRewrite, Site

#: Exponent -> what is done to the base: "square" is a Mul with itself, "times" one with the base.
_STEPS = {2.0: ["square"], 3.0: ["square", "times"], 4.0: ["square", "square"], 0.5: ["Sqrt"], -1.0: ["Reciprocal"],
          -0.5: ["Sqrt", "Reciprocal"], -2.0: ["square", "Reciprocal"]}  # fmt: skip


@register("replace_pow")
class ReplacePow(NodeRewrite):
    """Replaces Pow by Mul, Sqrt and Reciprocal where the exponent is the number 2, 3, 4, 1/2, -1, -1/2 or -2.

    Pow of [B, S, H] by 2 -> Mul of [B, S, H] with itself. Leaves alone, with a reason: exponents that are computed,
    that are no single number, or another one; a base of integers, or of a type that is not known, for which other
    operators give other types. Local functions are left alone.
    """

    operators = ("Pow",)
    what = "powers replaced"
    typed = True

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Replace; see the class."""
        base, dtype = node.inputs[0], node.inputs[0].dtype
        exponent = scalar(node.inputs[1], rank_of(base))
        if exponent is None:
            raise refused(f"its exponent {node.inputs[1].name!r} is no constant number")
        steps = _STEPS.get(exponent)
        if steps is None:
            raise refused(f"no plainer operators make the power of {exponent:g}")
        if dtype is None or isinstance(dtype, int) or np.dtype(dtype).kind != "f":
            raise refused(f"its base {base.name!r} is not known to be of floats")
        make = site.builder(node)
        output, tensor = site.release(node), base
        for number, step in enumerate(steps):
            into = output if number == len(steps) - 1 else None
            if step in ("square", "times"):
                other = tensor if step == "square" else base
                tensor = make.add("Mul", step, [tensor, other], dtype, into)
            else:
                tensor = make.add(step, step.lower(), [tensor], dtype, into)
