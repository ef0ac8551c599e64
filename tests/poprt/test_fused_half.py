"""Encoders that onnxruntime's own optimiser has fused and made float16: they pack and pass --check as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from poprt import runtime
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.verify import TOLERANCE
from tests.numerics import one_by_one, random_samples

optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
fusion_options = pytest.importorskip("onnxruntime.transformers.fusion_options")

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PACKING: dict[str, Any] = {
    "input_shape": {name: [3, 16] for name in INPUTS},
    "pack_args": {"max_valid_num": 8, "segment_max_size": 16},
}


def fused(folder: Path, *, multi_head: bool, keep_io_types: bool) -> onnx.ModelProto:
    config = BertConfig(**SIZES["tiny"], head="qa")
    onnx.save(build_bert(config), folder / "plain.onnx")
    options = fusion_options.FusionOptions("bert")
    options.use_multi_head_attention = multi_head
    path = str(folder / "plain.onnx")
    optimised = optimizer.optimize_model(
        path, "bert", num_heads=config.heads, hidden_size=config.hidden, opt_level=0, optimization_options=options
    )
    optimised.convert_float_to_float16(keep_io_types=keep_io_types)
    model: onnx.ModelProto = optimised.model
    return model


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("multi_head", "keep_io_types"), [(False, False), (True, True)])
def test_a_fused_half_precision_encoder_packs_and_passes_its_check(
    tmp_path: Path, multi_head: bool, keep_io_types: bool, precision: str
) -> None:
    model = fused(tmp_path, multi_head=multi_head, keep_io_types=keep_io_types)
    operators = {node.op_type for node in model.graph.node}
    assert operators >= {"EmbedLayerNormalization", "SkipLayerNormalization", "BiasGelu"}
    assert operators & {"Attention", "MultiHeadAttention"}
    converter = Converter(**PACKING, precision=precision, check=True)
    converted = converter.convert(model)
    assert converter.verification is not None
    assert converter.verification.passed
    assert all(output.tolerance >= TOLERANCE["fp16"] for output in converter.verification.outputs)
    share = next(record.result.details for record in converter.records if record.name == "packed_transformer")
    assert share["packed share of FLOPs"] > 0.7
    served_as_alone(model, Compiler.compile(converted))


def served_as_alone(model: onnx.ModelProto, executable: Any) -> None:
    samples = random_samples([5, 16, 9, 2])
    with runtime.Runner(executable, runtime.PackRunnerConfig()) as runner:
        for sample, expected in zip(samples, one_by_one(model, samples), strict=True):
            outputs = {name: np.zeros(array.shape, array.dtype) for name, array in expected.items()}
            runner.execute(dict(sample), outputs)
            for name, array in outputs.items():
                np.testing.assert_allclose(array.astype(np.float32), expected[name], atol=2e-2, rtol=2e-2)
