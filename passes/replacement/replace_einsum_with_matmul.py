"""Einsum of two operands, as MatMul between Transposes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.node_builder import NodeBuilder
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import NodeRewrite, Site


@register("replace_einsum_with_matmul")
class ReplaceEinsumWithMatmul(NodeRewrite):
    """Replaces an Einsum that sums over one axis of two operands by MatMul, with Transposes as far as needed.

    ``bqhd,bkhd->bhqk`` of [B, Q, H, d] and [B, K, H, d] -> Transpose to [B, H, Q, d] and [B, H, d, K], MatMul of
    [B, H, Q, K]. ``bsh,hk->bsk`` is a MatMul as it is.

    Leaves alone, with a reason: other numbers of operands, ellipses, an axis twice in one term, sums over no axis or
    several, sums of a single operand, and products that have no axis of each operand alone, or several. Local functions
    are left alone.
    """

    operators = ("Einsum",)
    what = "Einsums replaced"

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Replace; see the class."""
        left, right, output = _terms(node)
        summed = [axis for axis in left if axis in right and axis not in output]
        shared = [axis for axis in left if axis in right and axis in output]
        of_left = [axis for axis in left if axis not in right]
        of_right = [axis for axis in right if axis not in left]
        if {*left, *right} - {*output, *summed} or len(summed) != 1:
            raise refused("it does not sum over one axis of both operands")
        if len(of_right) != 1 or not of_left or (shared and len(of_left) != 1):
            raise refused("its product has no axis of each operand alone, or several")
        make, dtype = site.builder(node), node.outputs[0].dtype
        first = _ordered(make, node.inputs[0], left, [*shared, *of_left, *summed], "left")
        second = _ordered(make, node.inputs[1], right, [*shared, *summed, *of_right], "right")
        result, order = site.release(node), [*shared, *of_left, *of_right]
        if order == list(output):
            make.add("MatMul", "product", [first, second], into=result)
        else:
            product = make.add("MatMul", "product", [first, second], dtype)
            make.add("Transpose", "ordered", [product], into=result, perm=[order.index(axis) for axis in output])


def _terms(node: gs.Node) -> tuple[str, str, str]:
    """The axes of both operands and of the result, a letter each."""
    equation = str(node.attrs["equation"]).replace(" ", "")
    terms, _, output = equation.partition("->")
    operands = terms.split(",")
    if len(operands) != 2 or "." in equation or "->" not in equation:
        raise refused(f"its equation {equation!r} is not one of two operands with all axes named")
    if any(len(set(term)) != len(term) for term in (*operands, output)):
        raise refused(f"its equation {equation!r} names an axis twice in one term")
    return operands[0], operands[1], output


def _ordered(make: NodeBuilder, tensor: gs.Tensor, axes: str, order: list[str], what: str) -> gs.Tensor:
    """``tensor``, whose axes are ``axes``, with them in this order."""
    perm = [axes.index(axis) for axis in order]
    if perm == sorted(perm):
        return tensor
    return make.add("Transpose", f"{what}_ordered", [tensor], tensor.dtype, perm=perm)
