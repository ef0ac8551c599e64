"""The common part of the passes that make one node of a GELU which is spelled out: x * (1 + f(x)) / 2."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.arithmetic import agrees, evaluate, has_type_of, rank_of, variables
from passes.building import import_domain
from passes.operators import CONTRIB, lookup
from passes.refusal import refused
from passes.rewriting import Array, NodeRewrite, Site

#: Points at which chains are compared: x, and what f gives there, which may be any number to the rest of the chain.
_X = np.linspace(-4, 4, 24)
_F = np.linspace(0.9, -0.7, 24)


class GeluFusion(NodeRewrite):
    """Fuses x * (1 + f(a(x))) / 2, in every association and order, where f is the operator that is looked at.

    [B, S, H] -> Erf or Tanh and what is around it -> [B, S, H] becomes [B, S, H] -> Gelu -> [B, S, H]. The standard
    operator is used where the model's opset has it, one of com.microsoft elsewhere. Does nothing where an intermediate
    result is read by anything else, or where a factor is no constant. Local functions are left alone.
    """

    what = "GELUs fused"
    #: The formula, for people.
    formula: ClassVar[str]
    #: The operator of com.microsoft, and the attributes of the standard one.
    contrib: ClassVar[str] = "Gelu"
    #: Whether that of com.microsoft takes a tensor without axes.
    contrib_takes_scalars: ClassVar[bool] = True
    attributes: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def argument(self, x: Array) -> Array:
        """a(x)."""

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Fuse; see the class."""
        x, last = self._find(node, site)
        standard = site.opset >= lookup("Gelu").since
        if not standard and not self.contrib_takes_scalars and rank_of(x) == 0:
            raise refused(f"{self.contrib} takes no scalar, as {x.name!r} is")
        if not standard:
            import_domain(site.root, CONTRIB, 1)
        op, attributes = ("Gelu", self.attributes) if standard else (self.contrib, {})
        make = site.builder(last)
        make.add(op, "gelu", [x], into=site.release(last), domain=None if standard else CONTRIB, **attributes)

    def _find(self, node: gs.Node, site: Site) -> tuple[gs.Tensor, gs.Node]:
        """x, and the last node of the formula."""
        f = node.outputs[0]
        for x in variables(node.inputs[0]):
            if self._is_argument(node.inputs[0], x):
                for end in site.ends(f):
                    if _is_product(end.outputs[0], x, f) and has_type_of(end.outputs[0], x):
                        return x, end
        raise refused(f"it is not part of {self.formula}")

    def _is_argument(self, tensor: gs.Tensor, x: gs.Tensor) -> bool:
        return agrees(evaluate(tensor, {id(x): _X}, 1), self.argument(_X))


def _is_product(tensor: gs.Tensor, x: gs.Tensor, f: gs.Tensor) -> bool:
    return agrees(evaluate(tensor, {id(x): _X, id(f): _F}, 1), _X * (1 + _F) / 2)
