"""BatchNormalization at inference: into the product before it, or as a Mul and an Add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.arithmetic import has_type_of, rank_of
from passes.fusion.attention_ops import input_at
from passes.node_values import constant
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import Array, NodeRewrite, Site, narrowed

_EPSILON = 1e-5
_FIRST_OPSET = 9  # before it, an attribute said whether there is one value a channel or one a place


@dataclass(frozen=True)
class _Affine:
    """What a BatchNormalization does to each channel: x * factor + shift, both [C]."""

    factor: Array
    shift: Array

    @classmethod
    def of(cls, node: gs.Node, site: Site) -> _Affine:
        """Read it off ``node``.

        Raises:
            RefusedError: its parameters are computed, or it is one of training.
        """
        if site.opset < _FIRST_OPSET:
            raise refused(f"its meaning below opset {_FIRST_OPSET} depends on attributes; the model has {site.opset}")
        if node.attrs.get("training_mode", 0) or any(tensor.name for tensor in node.outputs[1:]):
            raise refused("it is one of training: it computes mean and variance itself")
        scale, bias, mean, variance = (_parameter(tensor) for tensor in node.inputs[1:5])
        factor = scale / np.sqrt(variance + float(node.attrs.get("epsilon", _EPSILON)))
        return cls(factor, bias - mean * factor)


def _parameter(tensor: gs.Tensor) -> Array:
    values = constant(tensor)
    if values is None:
        raise refused(f"its parameter {tensor.name!r} is computed")
    return values.astype(np.float64)


class _IntoProduct(NodeRewrite):
    operators = ("BatchNormalization",)
    what = "batch norms fused"
    #: The operators whose weights take it in.
    products: tuple[str, ...]

    def product(self, node: gs.Node, site: Site) -> gs.Node:
        """The product whose result ``node`` alone reads.

        Raises:
            RefusedError: there is none.
        """
        product = site.producer(node.inputs[0], *self.products)
        if product is None:
            raise refused(f"its input comes from no {' or '.join(self.products)}")
        if not site.is_free(node.inputs[0]):
            raise refused(f"what it reads, {node.inputs[0].name!r}, is read elsewhere too")
        return product


@register("fuse_bn_into_conv")
class FuseBnIntoConv(_IntoProduct):
    """Scales the weights and the bias of a Conv by the BatchNormalization behind it, which goes.

    Conv [N, C, H, W] by [M, C, 3, 3] -> BatchNormalization of M channels becomes Conv with scaled [M, C, 3, 3] and a
    bias [M]. Leaves alone, with a reason: parameters, weights or a bias that are computed; weights or a bias that
    another node reads, too; a result of the Conv that is read elsewhere; batch norms of training. Local functions are
    left alone.
    """

    products = ("Conv",)

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Fuse; see the class."""
        affine, conv = _Affine.of(node, site), self.product(node, site)
        weight = site.weight(conv.inputs[1], "weight")
        old_bias = input_at(conv, 2)
        bias = site.weight(old_bias, "bias") if old_bias is not None else np.zeros(len(weight))
        factor = affine.factor.reshape(-1, *[1] * (weight.ndim - 1))
        make, attrs, data = site.builder(conv), dict(conv.attrs), conv.inputs[0]
        inputs = [
            data,
            make.constant("weight", narrowed(weight * factor, weight.dtype, "weight"), weight.dtype),
            make.constant("bias", narrowed(bias * affine.factor + affine.shift, weight.dtype, "bias"), weight.dtype),
        ]
        site.release(conv)
        make.add("Conv", "normalised", inputs, into=site.release(node), **attrs)


@register("fuse_bn_into_gemm")
class FuseBnIntoGemm(_IntoProduct):
    """Scales the weights and the bias of a Gemm or MatMul by the BatchNormalization behind it, which goes.

    Gemm [N, K] by [K, M] -> BatchNormalization of M channels becomes Gemm with a scaled [K, M] and a bias [M]; a MatMul
    becomes a MatMul and an Add. Leaves alone, with a reason: what :class:`FuseBnIntoConv` leaves alone, a product of
    more than two axes, where the channels are not the last one, and a bias that is no vector.
    """

    products = ("Gemm", "MatMul")

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Fuse; see the class."""
        affine, product = _Affine.of(node, site), self.product(node, site)
        weight = site.weight(product.inputs[1], "weight")
        if product.op == "MatMul":
            self._into_matmul(node, product, weight, affine, site)
        else:
            self._into_gemm(node, product, weight, affine, site)

    @staticmethod
    def _into_gemm(node: gs.Node, gemm: gs.Node, weight: Array, affine: _Affine, site: Site) -> None:
        old_bias = input_at(gemm, 2)
        bias = site.weight(old_bias, "bias") if old_bias is not None else np.zeros(1)
        if bias.size not in (1, len(affine.factor)) or bias.size != np.prod(bias.shape[-1:], dtype=int):
            raise refused(f"the bias of its Gemm is {list(bias.shape)}, and no vector")
        factor = affine.factor[:, None] if gemm.attrs.get("transB", 0) else affine.factor
        make, attrs, data = site.builder(gemm), dict(gemm.attrs), gemm.inputs[0]
        shifted = bias.reshape(-1) * float(attrs.pop("beta", 1.0)) * affine.factor + affine.shift
        inputs = [
            data,
            make.constant("weight", narrowed(weight * factor, weight.dtype, "weight"), weight.dtype),
            make.constant("bias", narrowed(shifted, weight.dtype, "bias"), weight.dtype),
        ]
        site.release(gemm)
        make.add("Gemm", "normalised", inputs, into=site.release(node), **attrs)

    @staticmethod
    def _into_matmul(node: gs.Node, matmul: gs.Node, weight: Array, affine: _Affine, site: Site) -> None:
        if rank_of(matmul.inputs[0]) != 2 or weight.ndim != 2:
            raise refused("its MatMul is not known to be one of two matrices")
        make, data = site.builder(matmul), matmul.inputs[0]
        scaled = make.constant("weight", narrowed(weight * affine.factor, weight.dtype, "weight"), weight.dtype)
        shift = make.constant("shift", narrowed(affine.shift, weight.dtype, "shift"), weight.dtype)
        site.release(matmul)
        product = make.add("MatMul", "scaled", [data, scaled], weight.dtype)
        make.add("Add", "normalised", [product, shift], into=site.release(node))


@register("replace_bn_with_mul_add")
class ReplaceBnWithMulAdd(NodeRewrite):
    """Replaces BatchNormalization by a Mul and an Add with constants [C, 1, 1].

    [N, C, H, W] -> BatchNormalization becomes [N, C, H, W] -> Mul by [C, 1, 1] -> Add of [C, 1, 1]. Leaves alone, with
    a reason: parameters that are computed or of another type than the input, an input of unknown rank, batch norms of
    training. Local functions are left alone.
    """

    operators = ("BatchNormalization",)
    what = "batch norms replaced"

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Replace; see the class."""
        affine, rank = _Affine.of(node, site), rank_of(node.inputs[0])
        if rank is None or rank < 2:
            raise refused(f"how many axes {node.inputs[0].name!r} has is not known")
        values = constant(node.inputs[1])
        assert values is not None, "_Affine.of read it"
        if not has_type_of(node.inputs[0], node.inputs[1]):
            raise refused(f"its parameters are {values.dtype}, and {node.inputs[0].name!r} is not")
        shape, dtype = (-1, *[1] * (rank - 2)), values.dtype
        make, data = site.builder(node), node.inputs[0]
        factor = make.constant("factor", affine.factor.reshape(shape), dtype)
        shift = make.constant("shift", affine.shift.reshape(shape), dtype)
        scaled = make.add("Mul", "scaled", [data, factor], dtype)
        make.add("Add", "shifted", [scaled, shift], into=site.release(node))
