"""The machine's roof: how fast its best matrix product library runs the model's products and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import peer_openvino
from benchmarks.contenders import Array, Engine, OnnxRuntime
from benchmarks.pairs import repeated
from benchmarks.quantise import quantise
from models.bert import BertConfig

TOKENS = 512  # rows of each product; larger ones were not faster


@dataclass(frozen=True)
class _Product:
    """One product [tokens, inner] x [inner, outer]."""

    inner: int
    outer: int


def products(config: BertConfig) -> list[_Product]:
    """The products with weights of a whole encoder, in order."""
    hidden, wide = config.hidden, config.intermediate
    square = _Product(hidden, hidden)
    return [square, square, square, square, _Product(hidden, wide), _Product(wide, hidden)] * config.layers


class Roof:
    """A model of the encoder's products alone, each with weights of its own, in onnxruntime, numpy and
    (where installed) OpenVINO.

    Args:
        config: the encoder.
        precision: "fp32", or "int8" for products of bytes as dynamic quantisation makes them.
    """

    def __init__(self, config: BertConfig, precision: str = "fp32", tokens: int = TOKENS) -> None:
        rng = np.random.default_rng(0)
        chain = products(config)
        # Of variance 1 / inner, so that values neither grow nor vanish along the chain.
        self._weights = [rng.standard_normal((p.inner, p.outer), np.float32) * np.float32(p.inner**-0.5) for p in chain]
        model = _chain_model(self._weights, config.hidden)
        serialised = (quantise(model) if precision == "int8" else model).SerializeToString()
        self._engines: dict[str, Engine] = {"onnxruntime": OnnxRuntime(serialised)}
        with contextlib.suppress(ImportError):  # an absent peer lowers no roof
            self._engines["openvino"] = peer_openvino.OpenVINO(serialised)
        self._feeds: dict[str, Array] = {"x": rng.standard_normal((tokens, config.hidden), np.float32)}
        self._with_numpy = precision == "fp32"
        self.flops = float(sum(2 * tokens * p.inner * p.outer for p in chain))

    def measure(self, seconds: float) -> dict[str, float]:
        """Floating-point operations a second by library, over about ``seconds`` each. numpy computes no int8."""
        libraries = [*self._engines, *(["numpy"] if self._with_numpy else [])]
        return {library: self.rate(library, seconds) for library in libraries}

    def rate(self, library: str, seconds: float) -> float:
        """Floating-point operations a second of one library, over about ``seconds``."""
        run: Callable[[], object] = (
            self._run_numpy if library == "numpy" else partial(self._engines[library], self._feeds)
        )
        return self.flops * repeated(run, seconds)(0)

    def _run_numpy(self) -> None:
        x = self._feeds["x"]
        for weight in self._weights:
            x = x @ weight


def _chain_model(weights: list[Array], hidden: int) -> onnx.ModelProto:
    names = [f"x{i}" if i else "x" for i in range(len(weights))] + ["y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"n{i}") for i in range(len(weights))]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", hidden])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", hidden])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
