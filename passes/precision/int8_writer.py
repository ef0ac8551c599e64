"""Writes int8 products and tables into a graph, in standard operators.

An activation becomes uint8 with a scale of its own for each row, that is for each token, and a zero point that is
fixed: a token's result depends on no other token, so not on its neighbours in a pack nor on padding. One scale for the
whole tensor (DynamicQuantizeLinear) is somewhat cheaper, but then the samples of a pack share it. A float16 activation
is widened first, and the result rounded to float16 at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.building import add_node
from passes.precision.int8_sites import Product, Table
from passes.precision.int8_values import LEAST_STEP, Floats, QuantisedWeights, Rounding
from passes.precision.names import tensor_names, unique_name

_F32, _F16, _U8, _I8, _I32 = (np.dtype(kind) for kind in (np.float32, np.float16, np.uint8, np.int8, np.int32))
_REDUCTION_AXES_ARE_INPUT = 18


class Int8Writer:
    """Makes the nodes for one graph. Equal activations, weights and constants are quantised once.

    Args:
        weights: quantises them, and knows those of earlier writers.
    """

    def __init__(self, graph: gs.Graph, weights: QuantisedWeights) -> None:
        self._opset, self._quantised = graph.opset, weights
        self._taken = tensor_names(graph)
        self._nodes: list[gs.Node] = []
        self._constants: dict[str, gs.Constant] = {}
        self._weights: dict[tuple[int, bool], tuple[gs.Constant, gs.Constant]] = {}
        self._activations: dict[tuple[int, int, tuple[int, ...]], tuple[gs.Tensor, gs.Tensor]] = {}
        self._widened: dict[int, gs.Tensor] = {}
        self._balanced: dict[int, gs.Tensor] = {}

    def product(self, site: Product, rounding: Rounding, output: gs.Tensor) -> list[gs.Node]:
        """Nodes that compute ``site`` in int8 and give ``output``."""
        self._nodes = []
        half = site.weight.dtype == _F16
        weight, scale = self._product_weight(site)
        name = output.name
        activation = self._divided(self._float(site.activation, half), rounding.factors)
        columns, steps = self._columns(activation, rounding.zero_point, [weight], scale, name)
        rows = output if site.bias is None else self._variable(f"{name}_rows", _F16 if half else _F32)
        self._product_of(columns, steps, rows, half)
        if site.bias is not None:
            self._node("Add", [rows, site.bias], output)
        return self._nodes

    def integer_product(
        self,
        activation: gs.Tensor,
        zero_point: int,
        weight: Sequence[gs.Constant],
        scale: gs.Constant,
        output: gs.Tensor,
    ) -> list[gs.Node]:
        """Nodes that multiply a float32 activation by integers and give ``output``.

        Args:
            activation: any rank.
            zero_point: of the activation in uint8.
            weight: int8 or uint8 [rows, columns], and its zero point where that is not 0.
            scale: float32 [columns].
            output: float32.
        """
        self._nodes = []
        columns, steps = self._columns(activation, zero_point, weight, scale, output.name)
        self._node("Mul", [columns, steps], output)
        return self._nodes

    def integer_convolution(
        self,
        activation: gs.Tensor,
        zero_point: int,
        weight: Sequence[gs.Constant],
        scale: gs.Constant,
        output: gs.Tensor,
        attrs: Mapping[str, Any],
    ) -> list[gs.Node]:
        """Nodes that convolve a float32 activation with integers, with one scale a sample, and give ``output``.

        Args:
            activation: [n, channels, ...].
            zero_point: of the activation in uint8.
            weight: int8 or uint8 [filters, channels, ...], and its zero point where that is not 0.
            scale: float32 [].
            output: float32 [n, filters, ...].
            attrs: of the convolution.
        """
        self._nodes = []
        name, point = output.name, self._constant(f"int8_zero_point_{zero_point}", np.uint8(zero_point))
        axes = tuple(range(1, len(weight[0].shape)))
        levels, steps = self._activation(activation, zero_point, point, axes)
        sums = self._add("ConvInteger", [levels, weight[0], point, *weight[1:]], f"{name}_int32", _I32, **attrs)
        floats = self._add("Cast", [sums], f"{name}_sums", _F32, to=onnx.TensorProto.FLOAT)
        scaled = self._add("Mul", [floats, scale], f"{name}_scaled", _F32)
        self._node("Mul", [scaled, steps], output)
        return self._nodes

    def table(self, site: Table, output: gs.Tensor) -> list[gs.Node]:
        """Nodes that look up int8 rows and their scales and give ``output``."""
        self._nodes = []
        half = site.weight.dtype == _F16
        weight, scale = self._table_weight(site.weight)
        indices, name = site.node.inputs[1], output.name
        levels = self._add("Gather", [weight, indices], f"{name}_int8", _I8, axis=0)
        floats = self._add("Cast", [levels], f"{name}_levels", _F32, to=onnx.TensorProto.FLOAT)
        steps = self._add("Gather", [scale, indices], f"{name}_steps", _F32, axis=0)
        self._product_of(floats, steps, output, half)
        return self._nodes

    def _columns(
        self, activation: gs.Tensor, zero_point: int, weight: Sequence[gs.Constant], scale: gs.Constant, name: str
    ) -> tuple[gs.Tensor, gs.Tensor]:
        """The product in steps of each row, and these steps."""
        point = self._constant(f"int8_zero_point_{zero_point}", np.uint8(zero_point))
        levels, steps = self._activation(activation, zero_point, point)
        sums = self._add("MatMulInteger", [levels, weight[0], point, *weight[1:]], f"{name}_int32", _I32)
        floats = self._add("Cast", [sums], f"{name}_sums", _F32, to=onnx.TensorProto.FLOAT)
        return self._add("Mul", [floats, scale], f"{name}_columns", _F32), steps

    def _float(self, tensor: gs.Tensor, half: bool) -> gs.Tensor:
        """``tensor`` as float32: a step that float16 rounds would be another one than the levels were made with."""
        if not half:
            return tensor
        if id(tensor) not in self._widened:
            name = f"{tensor.name}_float"
            self._widened[id(tensor)] = self._add("Cast", [tensor], name, _F32, to=onnx.TensorProto.FLOAT)
        return self._widened[id(tensor)]

    def _divided(self, tensor: gs.Tensor, factors: Floats | None) -> gs.Tensor:
        """``tensor`` by ``factors``; the products that read it have the same ones."""
        if factors is None:
            return tensor
        if id(tensor) not in self._balanced:
            name = f"{tensor.name}_balanced"
            self._balanced[id(tensor)] = self._add(
                "Mul", [tensor, self._constant(f"{name}_by", 1 / factors)], name, _F32
            )
        return self._balanced[id(tensor)]

    def _product_of(self, values: gs.Tensor, steps: gs.Tensor, output: gs.Tensor, half: bool) -> None:
        """``values * steps`` as ``output``, in float16 where ``half``."""
        if not half:
            self._node("Mul", [values, steps], output)
            return
        wide = self._add("Mul", [values, steps], f"{output.name}_float", _F32)
        self._node("Cast", [wide], output, to=onnx.TensorProto.FLOAT16)

    def _activation(
        self, tensor: gs.Tensor, zero_point: int, point: gs.Constant, axes: tuple[int, ...] = (-1,)
    ) -> tuple[gs.Tensor, gs.Tensor]:
        """``tensor`` as uint8, and its scales; places along ``axes`` share one."""
        key = (id(tensor), zero_point, axes)
        if key not in self._activations:
            name = tensor.name
            high = self._reduce("ReduceMax", tensor, axes, f"{name}_largest")
            low = self._reduce("ReduceMin", tensor, axes, f"{name}_smallest")
            above = self._constant(f"int8_above_{zero_point}", np.float32(1 / (255 - zero_point)))
            below = self._constant(f"int8_below_{zero_point}", np.float32(-1 / zero_point))
            up = self._add("Mul", [high, above], f"{name}_step_up", _F32)
            down = self._add("Mul", [low, below], f"{name}_step_down", _F32)
            steps = self._add("Max", [up, down, self._constant("int8_least_step", LEAST_STEP)], f"{name}_step", _F32)
            scaled = self._add("Div", [tensor, steps], f"{name}_scaled", _F32)
            one = self._constant("int8_one", np.float32(1))
            levels = self._add("QuantizeLinear", [scaled, one, point], f"{name}_uint8", _U8)
            self._activations[key] = levels, steps
        return self._activations[key]

    def _reduce(self, op: str, tensor: gs.Tensor, axes: tuple[int, ...], name: str) -> gs.Tensor:
        if self._opset >= _REDUCTION_AXES_ARE_INPUT:
            what = "last_axis" if axes == (-1,) else f"axes_to_{axes[-1]}"
            return self._add(
                op, [tensor, self._constant(f"int8_{what}", np.array(axes, np.int64))], name, _F32, keepdims=1
            )
        return self._add(op, [tensor], name, _F32, axes=list(axes), keepdims=1)

    def _product_weight(self, site: Product) -> tuple[gs.Constant, gs.Constant]:
        key = (id(site.weight), site.transposed)
        if key not in self._weights:
            name = site.weight.name
            levels, scale = self._quantised.columns(*site.weight_key, site.matrix())
            self._weights[key] = self._store(name, levels, scale[0])
        return self._weights[key]

    def _table_weight(self, table: gs.Constant) -> tuple[gs.Constant, gs.Constant]:
        key = (id(table), False)
        if key not in self._weights:
            values = table.values.astype(_F32, copy=False)
            self._weights[key] = self._store(table.name, *self._quantised.rows(table.name, values))
        return self._weights[key]

    def _store(self, name: str, levels: NDArray[Any], scale: NDArray[Any]) -> tuple[gs.Constant, gs.Constant]:
        return (
            gs.Constant(unique_name(f"{name}_int8", self._taken), levels),
            gs.Constant(unique_name(f"{name}_scale", self._taken), scale),
        )

    def _constant(self, name: str, value: Any) -> gs.Constant:
        if name not in self._constants:
            self._constants[name] = gs.Constant(unique_name(name, self._taken), np.asarray(value))
        return self._constants[name]

    def _add(self, op: str, inputs: list[gs.Tensor], name: str, dtype: np.dtype[Any], **attrs: Any) -> gs.Tensor:
        output = self._variable(name, dtype)
        self._node(op, inputs, output, **attrs)
        return output

    def _variable(self, name: str, dtype: np.dtype[Any]) -> gs.Variable:
        return gs.Variable(unique_name(name, self._taken), dtype)

    def _node(self, op: str, inputs: list[gs.Tensor], output: gs.Tensor, **attrs: Any) -> None:
        add_node(self._nodes, op, output.name, inputs, into=output, **attrs)
