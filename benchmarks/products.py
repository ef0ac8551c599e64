"""An encoder's products with weights and nothing else, one after the other, as ONNX models of several precisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.contenders import Array
from benchmarks.quantise import quantise
from models.bert import BertConfig


@dataclass(frozen=True)
class Product:
    """One product [rows, inner] x [inner, outer]."""

    inner: int
    outer: int

    def __str__(self) -> str:
        return f"[rows, {self.inner}] x [{self.inner}, {self.outer}]"


def products(config: BertConfig) -> list[Product]:
    """The products with weights of a whole encoder, in order."""
    hidden, wide = config.hidden, config.intermediate
    square = Product(hidden, hidden)
    return [square, square, square, square, Product(hidden, wide), Product(wide, hidden)] * config.layers


class Chain:
    """The products of an encoder, each with weights of its own, from "x" [rows, hidden] to "y" [rows, hidden].

    Args:
        config: the encoder.
    """

    def __init__(self, config: BertConfig) -> None:
        self._hidden = config.hidden
        self._rng = np.random.default_rng(0)
        self._products = products(config)
        #: Float32 [inner, outer], of variance 1 / inner, so that values neither grow nor vanish along the chain.
        self.weights: list[Array] = [
            self._rng.standard_normal((p.inner, p.outer), np.float32) * np.float32(p.inner**-0.5)
            for p in self._products
        ]

    def flops(self, rows: int) -> float:
        """Floating-point operations of one run."""
        return float(sum(2 * rows * p.inner * p.outer for p in self._products))

    def input(self, rows: int) -> Array:
        """Normal numbers, float32 [rows, hidden]."""
        return self._rng.standard_normal((rows, self._hidden), np.float32)

    def float_model(self) -> onnx.ModelProto:
        """Float32 weights."""
        return self._model([f"w{i}" for i in range(len(self.weights))], [], self.weights)

    def dynamic_model(self) -> onnx.ModelProto:
        """int8 as onnxruntime's dynamic quantisation makes it."""
        return quantise(self.float_model())

    def int8_model(self, static: bool) -> onnx.ModelProto:
        """int8 weights with a scale a column, as constants with a DequantizeLinear before each MatMul.

        Args:
            static: round what is multiplied to bytes, too, by a scale that never changes.
        """
        nodes, names, arrays = [], [], []
        for i, weight in enumerate(self.weights):
            scale = np.abs(weight).max(axis=0) / np.float32(127)
            arrays += [np.rint(weight / scale).astype(np.int8), scale]
            names += [f"q{i}", f"s{i}"]
            nodes.append(helper.make_node("DequantizeLinear", names[-2:], [f"w{i}"], axis=1))
        if static:
            arrays += [np.float32(4 / 127), np.uint8(128)]
            names += ["scale", "zero"]
        return self._model(names, nodes, [np.asarray(array) for array in arrays], static)

    def _model(
        self, names: list[str], nodes: list[onnx.NodeProto], arrays: list[Array], static: bool = False
    ) -> onnx.ModelProto:
        x = "x"
        for i in range(len(self.weights)):
            if static:
                nodes.append(helper.make_node("QuantizeLinear", [x, "scale", "zero"], [f"bytes{i}"]))
                x = f"rounded{i}"
                nodes.append(helper.make_node("DequantizeLinear", [f"bytes{i}", "scale", "zero"], [x]))
            y = "y" if i == len(self.weights) - 1 else f"x{i + 1}"
            nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [y], f"n{i}"))
            x = y
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", self._hidden]) for name in ("x", "y")]
        constants = [numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)]
        graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
