"""Gemm, as the product and the sum that it is."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.fusion.attention_ops import input_at
from passes.node_builder import NodeBuilder
from passes.node_values import constant
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import NodeRewrite, Site


@register("replace_gemm_with_matmul")
class ReplaceGemmWithMatmul(NodeRewrite):
    """Replaces Gemm by MatMul and Add, with Transposes and Muls as far as it has need of them.

    Gemm of [N, K] by [M, K] (transB) and [M] -> MatMul of [N, K] by [K, M], Add of [M]. A constant matrix that no other
    node reads is transposed and scaled here and now. Leaves alone a scaled Gemm of integers, with a reason. Local
    functions are left alone.
    """

    operators = ("Gemm",)
    what = "Gemms replaced"
    typed = True

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Replace; see the class."""
        alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
        dtype = node.outputs[0].dtype
        is_float = dtype is not None and not isinstance(dtype, int) and np.dtype(dtype).kind == "f"
        if (alpha, beta) != (1.0, 1.0) and not is_float:
            raise refused("it scales, and is not known to be one of floats")
        make, bias = site.builder(node), input_at(node, 2)
        left = _transposed(make, node.inputs[0], bool(node.attrs.get("transA", 0)), "left", site)
        right = _transposed(make, node.inputs[1], bool(node.attrs.get("transB", 0)), "right", site)
        right = _scaled(make, right, alpha, "right", dtype, site)
        bias = _scaled(make, bias, beta, "bias", dtype, site) if bias is not None and beta else None
        output = site.release(node)
        product = make.add("MatMul", "product", [left, right], dtype, output if bias is None else None)
        if bias is not None:
            make.add("Add", "sum", [product, bias], dtype, output)


def _transposed(make: NodeBuilder, tensor: gs.Tensor, is_transposed: bool, what: str, site: Site) -> gs.Tensor:
    """``tensor`` [M, K] as [K, M] where it is to be transposed."""
    if not is_transposed:
        return tensor
    values = constant(tensor) if site.is_free(tensor) else None
    if values is not None:
        return make.constant(f"{what}_transposed", values.T, values.dtype)
    return make.add("Transpose", f"{what}_transposed", [tensor], tensor.dtype, perm=[1, 0])


def _scaled(make: NodeBuilder, tensor: gs.Tensor, factor: float, what: str, dtype: object, site: Site) -> gs.Tensor:
    """``factor * tensor``."""
    if factor == 1.0:
        return tensor
    values = constant(tensor) if site.is_free(tensor) or not tensor.outputs else None
    if values is not None:
        return make.constant(f"{what}_scaled", values * factor, values.dtype)
    return make.add("Mul", f"{what}_scaled", [tensor, make.constant(f"{what}_factor", factor, dtype)], dtype)
