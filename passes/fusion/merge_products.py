"""Products of one tensor by several constant matrices, as one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.cleanup.rewiring import is_op
from passes.node_values import constant
from passes.refusal import refused
from passes.rewriting import Array, Site

_SPLIT_TAKES_SIZES = 13


@dataclass(frozen=True)
class Member:
    """One of the products that become one.

    Attributes:
        product: the MatMul.
        bias: the Add of a constant behind it that is merged too; None where there is none.
    """

    product: gs.Node
    bias: gs.Node | None

    @property
    def last(self) -> gs.Node:
        """The node that gives the result."""
        return self.bias if self.bias is not None else self.product


def merge(members: Sequence[Member], site: Site) -> None:
    """Make one product of several, and split its result.

    [B, S, K] -> MatMul by [K, N], [K, N], [K, M] becomes [B, S, K] -> MatMul by [K, 2 N + M] -> Split.

    Raises:
        RefusedError: they read different tensors, or what would be joined is computed, read elsewhere or of another
            kind; nothing was changed.
    """
    if site.opset < _SPLIT_TAKES_SIZES:
        raise refused(f"Split takes sizes since opset {_SPLIT_TAKES_SIZES}, the model has {site.opset}")
    data = members[0].product.inputs[0]
    if any(member.product.inputs[0] is not data for member in members):
        raise refused("the products are of different tensors")
    weights = [_matrix(member, site) for member in members]
    if len({(weight.dtype, weight.shape[0]) for weight in weights}) > 1:
        raise refused("the matrices differ in type or in rows")
    biases = [_bias(member, weight, site) for member, weight in zip(members, weights, strict=True)]
    first = next(node for node in site.scope.nodes if any(node is member.product for member in members))
    make, dtype = site.builder(first), weights[0].dtype
    joined = make.constant("merged_weight", np.concatenate(weights, axis=1), dtype)
    product = make.add("MatMul", "merged", [data, joined], dtype)
    if any(member.bias is not None for member in members):
        product = make.add("Add", "merged_bias", [product, make.constant("bias", np.concatenate(biases), dtype)], dtype)
    sizes = make.constant("sizes", [weight.shape[1] for weight in weights])
    results = [_release(member, site) for member in members]
    make.add_of_several("Split", "split", [product, sizes], results, axis=-1)


def _matrix(member: Member, site: Site) -> Array:
    weight = site.weight(member.product.inputs[1], "matrix")
    if weight.ndim != 2:
        raise refused(f"its weight {member.product.inputs[1].name!r} is no matrix")
    return weight


def _bias(member: Member, weight: Array, site: Site) -> Array:
    if member.bias is None:
        return np.zeros(weight.shape[1], weight.dtype)
    if not site.is_free(member.product.outputs[0]):
        raise refused(f"the product {member.product.outputs[0].name!r} is read elsewhere too")
    values = next(value for tensor in member.bias.inputs if (value := constant(tensor)) is not None)
    if values.shape != (weight.shape[1],):
        raise refused(f"its bias {list(values.shape)} is no vector of the {weight.shape[1]} columns")
    return values


def _release(member: Member, site: Site) -> gs.Tensor:
    if member.bias is not None:
        site.release(member.product)
    return site.release(member.last)


def bias_behind(product: gs.Node) -> gs.Node | None:
    """The Add of a constant that reads ``product``; None where something else does."""
    readers = product.outputs[0].outputs
    if len(readers) != 1 or not is_op(readers[0], "Add"):
        return None
    return readers[0] if any(constant(tensor) is not None for tensor in readers[0].inputs) else None
