"""A constant factor behind a product by a constant matrix, in the matrix."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.arithmetic import rank_of
from passes.node_values import constant
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import Array, NodeRewrite, Site, narrowed


@register("fuse_mul_into_matmul")
class FuseMulIntoMatmul(NodeRewrite):
    """Scales the matrix of a MatMul by the constant that its result is multiplied with or divided by.

    [B, S, K] -> MatMul by [K, N] -> Mul by a number or [N] becomes [B, S, K] -> MatMul by a scaled [K, N]. Leaves
    alone, with a reason: factors and matrices that are computed, that the result is broadcast to, or that another node
    reads, too (the matrix alone), products whose result is read elsewhere, and a matrix that would leave its type's
    range. Local functions are left alone.
    """

    operators = ("Mul", "Div")
    what = "factors fused"

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Fuse; see the class."""
        product, factor = _product_and_factor(node, site)
        if not site.is_free(product.outputs[0]):
            raise refused(f"the product {product.outputs[0].name!r} is read elsewhere too")
        weight = site.weight(product.inputs[1], "matrix")
        scaled = scaled_columns(weight, factor, rank_of(product.outputs[0]), divide=node.op == "Div")
        make, data = site.builder(product), product.inputs[0]
        matrix = make.constant("scaled", scaled, weight.dtype)
        site.release(product)
        make.add("MatMul", "product", [data, matrix], into=site.release(node))


def _product_and_factor(node: gs.Node, site: Site) -> tuple[gs.Node, Array]:
    pairs = [(node.inputs[0], node.inputs[1])]
    if node.op == "Mul":
        pairs.append((node.inputs[1], node.inputs[0]))
    for tensor, other in pairs:
        product = site.producer(tensor, "MatMul")
        if product is not None:
            values = constant(other)
            if values is None:
                raise refused(f"its factor {other.name!r} is computed")
            return product, values
    raise refused("it scales no product of a MatMul")


def scaled_columns(weight: Array, factor: Array, rank: int | None, *, divide: bool = False) -> Array:
    """``weight`` [..., K, N] whose columns are scaled by ``factor``, a number or [N]; in its own type.

    Raises:
        RefusedError: the factor is no such thing, or not of floats, or adds axes to a result of ``rank``, or leaves the
            range of the type.
    """
    if weight.dtype.kind != "f" or factor.dtype.kind != "f":
        raise refused("it is not one of floats")
    if factor.size not in (1, weight.shape[-1]) or factor.size != np.prod(factor.shape[-1:], dtype=int):
        raise refused(f"its factor {list(factor.shape)} is neither a number nor one a column of {list(weight.shape)}")
    if weight.ndim < 2 or factor.ndim > (1 if rank is None else rank):
        raise refused("its factor adds an axis to the product, or the matrix is a vector")
    flat = factor.reshape(-1).astype(np.float64)
    if divide and not flat.all():
        raise refused("it divides by zero")
    return narrowed(weight / flat if divide else weight * flat, weight.dtype, "matrix")
