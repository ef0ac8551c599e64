"""A program packs an encoder by a pass of its own, while it is converted, and serves it with padding removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from poprt import Pass, runtime
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.passes import register
from poprt.passes.onnx_helper import clean_info, get_dtype, get_shape, topological_sort
from poprt.passes.pattern_helper import PatternMatcher
from poprt.passes.shape_inference import infer_shapes
from tests.numerics import one_by_one

ROWS, COLUMNS, HIDDEN, MOST, WORDS = 3, 24, 8, 6, 40
IDS, MASK = "input_ids.1", "attention_mask.1"
OUTPUTS = ("start", "end")
LAYERS = 2

BEFORE = """
    looked_up = Gather (table, ids)
    last = Constant <value_ints = [2]> ()
    mask_column = Unsqueeze (mask, last)
    column = Cast <to = 1> (mask_column)
    x0 = Mul (looked_up, column)
    row_shape = Constant <value_ints = [0, 1, 1, -1]> ()
    row = Reshape (mask, row_shape)
    second = Constant <value_ints = [2]> ()
    flat = Squeeze (row, second)
    third = Constant <value_ints = [3]> ()
    tall = Unsqueeze (flat, third)
    pairs = Mul (row, tall)
    seen = Cast <to = 9> (pairs)
    hidden_pairs = Not (seen)
    heads = Constant <value_ints = [1]> ()
"""
LAYER = """
    q# = MatMul (x#, wq#)
    k# = MatMul (x#, wk#)
    v# = MatMul (x#, wv#)
    query# = Unsqueeze (q#, heads)
    key# = Unsqueeze (k#, heads)
    values# = Unsqueeze (v#, heads)
    turned# = Transpose <perm = [0, 1, 3, 2]> (key#)
    scores# = MatMul (query#, turned#)
    moved# = Add (scores#, shift)
    masked# = Where (hidden_pairs, low, moved#)
    shares# = Softmax <axis = -1> (masked#)
    own# = Where (hidden_pairs, zero, shares#)
    context4# = MatMul (own#, values#)
    context# = Squeeze (context4#, heads)
    x@ = Add (context#, x#)
"""
HEAD = """
    logits = MatMul (x2, classes)
    both = Add (logits, class_shift)
    start3, end3 = Split <axis = -1> (both)
    start = Squeeze (start3, last)
    end = Squeeze (end3, last)
"""


def encoder() -> onnx.ModelProto:
    """Masks the scores before the softmax and the shares after it, as models with relative positions do."""
    layers = "".join(LAYER.replace("#", str(number)).replace("@", str(number + 1)) for number in range(LAYERS))
    body = BEFORE + layers + HEAD
    text = f"""<ir_version: 8, opset_import: ["": 13]>
        encoder (int64[batch, seq] ids, int64[batch, seq] mask) => (float[batch, seq] start, float[batch, seq] end)
        {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(5)
    weights: dict[str, Any] = {"table": rng.standard_normal((WORDS, HIDDEN)), "shift": 0.25, "low": -60000.0}
    for name in (f"w{kind}{number}" for number in range(LAYERS) for kind in "qkv"):
        weights[name] = rng.standard_normal((HIDDEN, HIDDEN)) * 0.4
    weights.update(zero=0.0, classes=rng.standard_normal((HIDDEN, 2)), class_shift=np.array([0.5, -0.5]))
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()
    )
    for node in model.graph.node:
        node.input[:] = [{"ids": IDS, "mask": MASK}.get(name, name) for name in node.input]
    for value, name in zip(model.graph.input, (IDS, MASK), strict=True):
        value.name = name
    return model


@register("pack_by_hand")
class PackByHand(Pass):
    """Samples share rows: AttentionMask numbers them, and one Unpack before the head gives each a row of its own."""

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The packed model."""
        model.graph.CopyFrom(self.keep_apart(model.graph))
        model = infer_shapes(clean_info(model))
        self.unpack(model.graph)
        return infer_shapes(clean_info(model))

    def keep_apart(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """Put AttentionMask where the masks of pairs were."""
        matcher = PatternMatcher(
            [
                "s:0->Reshape:row->Squeeze:flat->Unsqueeze:tall->Mul:pairs->Cast:seen->Not:not->e:1",
                "Reshape:row->Mul:pairs",
            ]
        )
        masks = matcher.next_pattern(graph)
        assert masks is not None
        mask = masks["row"].node.input[0]
        for label in ("row", "flat", "tall", "pairs", "seen", "not"):
            graph.node.remove(masks[label].node)
        matcher = PatternMatcher(
            [
                "s:0->WhereV2:before->Softmax:softmax->WhereV2:after->MatMul:product->e:1",
                "s:2->Add:scores->WhereV2:before",
            ]
        )
        number, ops = 0, matcher.next_pattern(graph)
        while ops is not None:
            scores = ops["scores"].node.output[0]
            if number == 0:
                graph.node.extend(self.bias_and_gate(mask, scores, get_dtype(graph, scores)))
            graph.node.append(helper.make_node("Add", ["bias", scores], [f"biased{number}"], name=f"Biased{number}"))
            ops["softmax"].node.input[0] = f"biased{number}"
            inputs = ["gate", ops["softmax"].node.output[0]]
            graph.node.append(helper.make_node("Mul", inputs, [f"gated{number}"], name=f"Gated{number}"))
            ops["product"].node.input[0] = f"gated{number}"
            for label in ("before", "after"):
                graph.node.remove(ops[label].node)
            number, ops = number + 1, matcher.next_pattern(graph)
        assert number == LAYERS
        nodes = topological_sort(graph)
        graph.ClearField("node")
        graph.node.extend(nodes)
        return graph

    @staticmethod
    def bias_and_gate(mask: str, scores: str, dtype: int) -> Iterator[onnx.NodeProto]:
        """What is added to scores, and 1 where it is 0."""
        word = "FLOAT" if dtype == onnx.TensorProto.FLOAT else "FLOAT16"
        yield helper.make_node("AttentionMask", [mask, scores], ["bias"], domain="ai.graphcore", dataType=word)
        yield helper.make_node("Cast", ["bias"], ["others"], name="Others", to=onnx.TensorProto.BOOL)
        yield helper.make_node("Not", ["others"], ["own"], name="Own")
        yield helper.make_node("Cast", ["own"], ["gate"], name="Gate", to=dtype)

    @staticmethod
    def unpack(graph: onnx.GraphProto) -> None:
        """Put Unpack before the head."""
        ops = PatternMatcher("s:0->MatMul:product->Add:shift->Split:split->e:1").next_pattern(graph)
        assert ops is not None
        lengths = helper.make_tensor_value_info("unpack_info", onnx.TensorProto.INT32, (MOST, 1))
        graph.input.append(lengths)
        product = ops["product"].node
        sizes = {"max_valid_num": MOST, "segment_max_size": [COLUMNS]}
        inputs = [product.input[0], lengths.name]
        node = helper.make_node("Unpack", inputs, ["apart"], name="Unpack", domain="ai.graphcore", **sizes)
        product.input[0] = "apart"
        graph.node.insert(ops["product"].index, node)


def pack_options(algorithm: runtime.PackAlgorithm) -> runtime.PackRunnerConfig:
    config = runtime.PackRunnerConfig()
    config.enable_input_single_row_mode(MASK, "unpack_info", 1)
    config.dynamic_input_name = IDS
    config.timeout_microseconds = 3000
    config.algorithm = algorithm
    config.max_valid_num = MOST
    config.enable_padding_remove_mode(MASK, [IDS])
    return config


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 2e-2), ("fp32", 1e-5)])
@pytest.mark.parametrize("algorithm", runtime.PackAlgorithm)
def test_a_pass_of_the_programs_own_packs_while_converting(
    precision: str, tolerance: float, algorithm: Any, tmp_path: Path
) -> None:
    model = encoder()
    rng = np.random.default_rng(2)
    lengths = [5, 9, 1, 24, 7, 3, 3, 12, 2, 11, 4, 24, 23, 6]
    samples = [{IDS: rng.integers(0, WORDS, length), MASK: np.ones(length, np.int64)} for length in lengths]
    converter = Converter(
        input_shape={IDS: [ROWS, COLUMNS], MASK: [ROWS, COLUMNS]},
        precision=precision,
        used_passes=["pack_by_hand"],
        disable_fast_norm=True,
        enable_insert_remap=True,
        remap_mode=["after_matmul", " before_add"],
        max_tensor_size=6291456,
    )
    packed = converter.convert(model)
    assert [value.name for value in packed.graph.input] == [IDS, MASK, "unpack_info"]
    assert [get_shape(packed.graph, name) for name in OUTPUTS] == [[MOST, COLUMNS]] * 2
    assert {function.name for function in packed.functions} == {"AttentionMask", "Unpack"}
    Compiler.compile_and_export(packed.SerializeToString(), list(OUTPUTS), tmp_path / "executable.popef")
    runner = runtime.Runner(str(tmp_path / "executable.popef"), pack_options(algorithm))
    pending = []
    for sample in samples:
        feeds: dict[str, Any] = {"unpack_info": np.zeros(1, np.int32)}
        for name, array in sample.items():
            feeds[name] = np.pad(array, (0, COLUMNS - len(array))).astype(np.int32)[None]
        results = {desc.name: np.zeros(desc.shape, desc.numpy_data_type()) for desc in runner.get_model_outputs()}
        pending.append((runner.executeAsync(dict(feeds), dict(results)), results))
    for (future, results), own in zip(pending, one_by_one(model, samples), strict=True):
        future.wait()
        for name, array in own.items():
            np.testing.assert_allclose(results[name][0, : len(array)], array, rtol=0, atol=tolerance)
    runner.close()
