"""CTranslate2 with the same weights. It drops padding inside, so it is the closest peer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.contenders import Array
from models.bert import BertConfig
from poprt.engine.cpu import usable_cores

HOW_TO = "pip install ctranslate2"


class CTranslate2:
    """A CTranslate2 encoder and the question-answering head.

    Args:
        model: the question-answering model of :mod:`models.bert`, whose weights are taken.
        config: its sizes.
        precision: "fp32", "bf16" or "int8".
        workers: batches that run at the same time; the cores are shared among them.

    Raises:
        ImportError: CTranslate2 is not installed.
        RuntimeError: it does not compute in this precision on this CPU.
    """

    token_outputs = frozenset({"start_logits", "end_logits"})

    def __init__(self, model: onnx.ModelProto, config: BertConfig, precision: str = "fp32", workers: int = 1) -> None:
        import ctranslate2

        kind = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}[precision]
        if kind not in ctranslate2.get_supported_compute_types("cpu"):
            raise RuntimeError(f"it has no products of {kind} for this CPU")
        self._ct2 = ctranslate2
        # CTranslate2 quantises in place, so each array is a copy.
        weights = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
        self._head = weights["head.qa_outputs.weight"], weights["head.qa_outputs.bias"]
        with tempfile.TemporaryDirectory() as folder:
            spec = _encoder_spec(config, weights)
            spec.validate()
            spec.optimize(quantization=None if precision == "fp32" else kind)
            spec.save(folder)
            self._encoder = ctranslate2.Encoder(
                folder,
                device="cpu",
                inter_threads=workers,
                intra_threads=max(1, usable_cores() // workers),
                compute_type=kind,
            )

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run one batch."""
        view = self._ct2.StorageView.from_array
        lengths = feeds["attention_mask"].sum(axis=1).astype(np.int32)
        filled = np.maximum(lengths, 1)  # rows that only fill up a fixed batch
        result = self._encoder.forward_batch(
            view(feeds["input_ids"].astype(np.int32)), view(filled), feeds["token_type_ids"].tolist()
        )
        weight, bias = self._head
        logits = np.array(result.last_hidden_state) @ weight + bias
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


def _encoder_spec(config: BertConfig, weights: Mapping[str, Array]) -> Any:
    from ctranslate2.specs import common_spec, transformer_spec

    encoder = transformer_spec.TransformerEncoderSpec(
        config.layers,
        config.heads,
        pre_norm=False,
        activation=common_spec.Activation.GELU,
        layernorm_embedding=True,
        num_source_embeddings=2,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    encoder.scale_embeddings = False
    table = "embeddings.{}_embeddings.weight"
    encoder.embeddings[0].weight = weights[table.format("word")]
    encoder.embeddings[1].weight = weights[table.format("token_type")]
    encoder.position_encodings.encodings = weights[table.format("position")]
    _set_norm(encoder.layernorm_embedding, weights, "embeddings.LayerNorm")
    for number, layer in enumerate(encoder.layer):
        _set_layer(layer, weights, f"encoder.layer.{number}")
    spec = transformer_spec.TransformerEncoderModelSpec(encoder)
    spec.register_vocabulary([str(token) for token in range(config.vocab)])
    spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = config.epsilon
    return spec


def _set_layer(layer: Any, weights: Mapping[str, Array], name: str) -> None:
    attention, feed_forward = layer.self_attention, layer.ffn
    _set_linear(attention.linear[0], weights, *(f"{name}.attention.self.{part}" for part in ("query", "key", "value")))
    _set_linear(attention.linear[1], weights, f"{name}.attention.output.dense")
    _set_norm(attention.layer_norm, weights, f"{name}.attention.output.LayerNorm")
    _set_linear(feed_forward.linear_0, weights, f"{name}.intermediate.dense")
    _set_linear(feed_forward.linear_1, weights, f"{name}.output.dense")
    _set_norm(feed_forward.layer_norm, weights, f"{name}.output.LayerNorm")


def _set_linear(spec: Any, weights: Mapping[str, Array], *names: str) -> None:
    """One layer of CTranslate2 for one or more of ours: it keeps matrices as [out, in]."""
    matrices = [weights[f"{name}.weight"].T for name in names]
    spec.weight = np.ascontiguousarray(np.concatenate(matrices))
    spec.bias = np.concatenate([weights[f"{name}.bias"] for name in names])


def _set_norm(spec: Any, weights: Mapping[str, Array], name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]
