"""Two operators of one kind in a row, as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.arithmetic import rank_of, small_constant
from passes.node_values import axes_argument, constant
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import Array, NodeRewrite, Site

_AXES_ARE_INPUTS = 13


class _FuseConsecutive(NodeRewrite):
    """Makes one node of two of the same operator, where nothing else reads what is between. The first says nothing."""

    def first_of(self, node: gs.Node, site: Site) -> gs.Node:
        """The node before, of the same operator, that ``node`` alone reads.

        Raises:
            RefusedError: there is none.
        """
        first = site.producer(node.inputs[0], node.op)
        if first is None:
            raise refused(f"there is no {node.op} before it")
        if not site.is_free(node.inputs[0]):
            raise refused(f"what it reads, {node.inputs[0].name!r}, is read elsewhere too")
        return first

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Fuse; see the class."""
        first = self.first_of(node, site)
        inputs, attrs = self.fused(first, node, site)
        make = site.builder(node)
        site.release(first)
        make.add(node.op, "fused", inputs, into=site.release(node), **attrs)

    @abstractmethod
    def fused(self, first: gs.Node, second: gs.Node, site: Site) -> tuple[list[gs.Tensor], dict[str, Any]]:
        """The inputs and attributes of the one node.

        Raises:
            RefusedError: the two are not one.
        """


@register("fuse_consecutive_cast")
class FuseConsecutiveCast(_FuseConsecutive):
    """Casts once where the first of two Casts loses nothing: int32 -> int64 -> float is int32 -> float.

    Works on [B, S] as on any shape. Leaves alone, with a reason: a first Cast that may change values or whose types are
    not known, a result between that is read elsewhere. Local functions are left alone.
    """

    operators = ("Cast",)
    what = "casts fused"
    typed = True

    def fused(self, first: gs.Node, second: gs.Node, site: Site) -> tuple[list[gs.Tensor], dict[str, Any]]:
        """Cast what the first reads to what the second gives."""
        before, between = first.inputs[0].dtype, onnx.helper.tensor_dtype_to_np_dtype(first.attrs["to"])
        if before is None or isinstance(before, int) or not np.can_cast(before, between, "safe"):
            raise refused("the Cast before it may change values")
        return [first.inputs[0]], dict(second.attrs)


@register("fuse_consecutive_reshape")
class FuseConsecutiveReshape(_FuseConsecutive):
    """Reshapes once: [2, 6] -> [3, 4] -> [12] is [2, 6] -> [12].

    Leaves alone, with a reason: a second target that is computed or says 0 (as it was), a result between that is read
    elsewhere. Local functions are left alone.
    """

    operators = ("Reshape",)
    what = "reshapes fused"

    def fused(self, first: gs.Node, second: gs.Node, site: Site) -> tuple[list[gs.Tensor], dict[str, Any]]:
        """Reshape what the first reads to what the second gives."""
        target = constant(second.inputs[1])
        if target is None or not target.all():
            raise refused("its target is computed, or says that an extent stays as it was")
        return [first.inputs[0], second.inputs[1]], dict(second.attrs)


@register("fuse_consecutive_transpose")
class FuseConsecutiveTranspose(_FuseConsecutive):
    """Transposes once: [B, S, h, d] -> [B, h, S, d] -> [B, h, d, S] by perm 0, 2, 3, 1.

    Leaves alone, with a reason: a Transpose without ``perm``, a result between that is read elsewhere. Two that
    undo each other become one that keeps the order, for ``eliminate_nop_transpose``. Local functions are left alone.
    """

    operators = ("Transpose",)
    what = "transposes fused"

    def fused(self, first: gs.Node, second: gs.Node, site: Site) -> tuple[list[gs.Tensor], dict[str, Any]]:
        """Axis i of the result is axis second[i] of what is between, which is axis first[second[i]]."""
        orders = [node.attrs.get("perm") for node in (first, second)]
        if None in orders:
            raise refused("it or the one before it reverses the axes of a tensor")
        return [first.inputs[0]], {"perm": [orders[0][axis] for axis in orders[1]]}


class _FuseAxes(_FuseConsecutive):
    def fused(self, first: gs.Node, second: gs.Node, site: Site) -> tuple[list[gs.Tensor], dict[str, Any]]:
        """The axes of both, counted in the tensor that has them all."""
        axes = [axes_argument(node) for node in (first, second)]
        if not all(each and min(each) >= 0 for each in axes):
            raise refused("its axes or those before it are computed, left out, or counted from the end")
        numbers = sorted(self.joined(axes[0] or [], axes[1] or []))
        if site.opset < _AXES_ARE_INPUTS:
            return [first.inputs[0]], {"axes": numbers}
        return [first.inputs[0], gs.Constant(site.name(f"{second.outputs[0].name}_axes"), np.array(numbers))], {}

    @abstractmethod
    def joined(self, first: Sequence[int], second: Sequence[int]) -> Iterable[int]:
        """The axes of the one node."""


def _among_all(axes: Sequence[int], others: Sequence[int]) -> list[int]:
    """Where ``axes`` stand once ``others`` are there too: 0 and 1 beside 0 are 1 and 2."""
    free = [axis for axis in range(max(axes) + len(others) + 1) if axis not in others]
    return [free[axis] for axis in axes]


@register("fuse_consecutive_squeeze")
class FuseConsecutiveSqueeze(_FuseAxes):
    """Squeezes once: [1, B, 1, S] -> [B, 1, S] -> [B, S] by axes 0 and 2.

    Leaves alone, with a reason: axes that are computed, left out or negative, a result between that is read elsewhere.
    Local functions are left alone.
    """

    operators = ("Squeeze",)
    what = "squeezes fused"

    def joined(self, first: Sequence[int], second: Sequence[int]) -> Iterable[int]:
        """In what the first reads."""
        return [*first, *_among_all(second, first)]


@register("fuse_consecutive_unsqueeze")
class FuseConsecutiveUnsqueeze(_FuseAxes):
    """Unsqueezes once: [B, S] -> [B, 1, S] -> [B, 1, 1, S] by axes 1 and 2.

    Leaves alone, with a reason: axes that are computed or negative, a result between that is read elsewhere. Local
    functions are left alone.
    """

    operators = ("Unsqueeze",)
    what = "unsqueezes fused"

    def joined(self, first: Sequence[int], second: Sequence[int]) -> Iterable[int]:
        """In what the second gives."""
        return [*_among_all(first, second), *second]


@register("fuse_consecutive_arithmetic")
class FuseConsecutiveArithmetic(_FuseConsecutive):
    """Adds or multiplies once: x + 2 + 3 is x + 5, x * 2 * [H] is x * [H].

    Results may differ by a rounding. Leaves alone, with a reason: operands that are computed, integers, constants of
    more elements than one along one axis, a result between that is read elsewhere. Local functions are left alone.
    """

    operators = ("Add", "Mul")
    what = "arithmetic fused"

    def first_of(self, node: gs.Node, site: Site) -> gs.Node:
        """The constant may stand first."""
        if site.producer(node.inputs[0], node.op) is None and site.producer(node.inputs[1], node.op) is not None:
            node.inputs[0], node.inputs[1] = node.inputs[1], node.inputs[0]
        return super().first_of(node, site)

    def fused(self, first: gs.Node, second: gs.Node, site: Site) -> tuple[list[gs.Tensor], dict[str, Any]]:
        """The tensor, and both constants in one."""
        place = 0 if _vector(first.inputs[0], None) is not None else 1
        tensor = first.inputs[1 - place]
        one, other = (_vector(item, rank_of(tensor)) for item in (first.inputs[place], second.inputs[1]))
        if one is None or other is None or one.dtype != other.dtype:
            raise refused("what it or the one before it combines its tensor with is no small constant of floats")
        both = one + other if second.op == "Add" else one * other
        return [tensor, gs.Constant(site.name(f"{second.outputs[0].name}_constant"), both)], {}


def _vector(tensor: gs.Tensor, rank: int | None) -> Array | None:
    """A constant number or vector of floats; None for anything else."""
    values = small_constant(tensor, 1 << 16)
    most = 1 if rank is None else min(rank, 1)
    return values if values is not None and values.dtype.kind == "f" and values.ndim <= most else None
