"""Models to fuse, each so that its answer tells which one ran."""

from __future__ import annotations

import onnx

from models.bert import SIZES, BertConfig, build_bert
from poprt.converter import Converter
from tests.passes.rewrites import parse

#: O = X + Y, 11 opsets old; shares the names X and O with the next.
ADDS = "g (float[1,2] X, float[1,2] Y) => (float[2] O) <int64[1] C = {2}> { Z = Add(X, Y)  O = Reshape(Z, C) }"
#: O = 3 X, and P, which it alone has.
TRIPLES = "g (float[4,2] X) => (float[4,2] O, float[4,2] P) <float C = {3}> { O = Mul(X, C)  P = Neg(X) }"
#: S = W - 3 in 8 bits, which the engine has no operator for in opset 11.
SUBTRACTS = "g (int8[1] W) => (int8[1] S) <int8[1] C = {3}> { S = Sub(W, C) }"
#: The branches read a weight and a tensor of the main graph.
BRANCHES = """
g (float[3] V, bool B) => (float[3] R) <float[3] w = {1, 2, 3}>
{
  n = Mul(V, w)
  R = If (B) <
    then_branch = t () => (float[3] r) { r = Sub(n, w) },
    else_branch = e () => (float[3] q) { q = Identity(n) }
  >
}
"""


def adds(opset: int = 11) -> onnx.ModelProto:
    return parse(ADDS, opset=opset)


def triples(opset: int = 17) -> onnx.ModelProto:
    return parse(TRIPLES, opset=opset)


def subtracts() -> onnx.ModelProto:
    return parse(SUBTRACTS, opset=11)


def packed_bert(head: str = "qa") -> onnx.ModelProto:
    model = build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1}, head=head))
    shapes = {value.name: [2, 12] for value in model.graph.input}
    packing = {"max_valid_num": 4, "segment_max_size": 12}
    return Converter(input_shape=shapes, pack_args=packing, disable_progress_bar=True).convert(model)
