"""Encoders of transformers whose tokens are arrays, packed and served, judged by each sample alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.runtime import PackRunner, PackRunnerConfig
from tests.numerics import Arrays
from tests.poprt.runtime.test_vector_tokens import alone, assert_served
from tests.poprt.runtime.vector_models import COLUMNS, HIDDEN, LENGTHS, MOST, ROWS

pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")
pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[export]'")

VOCAB = 100
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
Draw = Callable[[np.random.Generator, int], Arrays]


@dataclass(frozen=True)
class Family:
    """A model of transformers and what it is fed.

    Attributes:
        model_type: its name in transformers' CONFIG_MAPPING.
        sizes: config fields beyond the usual ones.
        draw: inputs [L, ...] of a sample of L tokens, but for the mask.
    """

    model_type: str
    sizes: dict[str, Any]
    draw: Draw


def _boxes(rng: np.random.Generator, length: int) -> Arrays:
    corners = np.sort(rng.integers(0, 60, (length, 2, 2)), axis=1)  # left and top are no larger than right and bottom
    return {"input_ids": rng.integers(5, VOCAB, length), "bbox": corners.reshape(length, 4)}


def _paths(rng: np.random.Generator, length: int) -> Arrays:
    tags, subs = rng.integers(0, 20, (2, length, 5))
    return {"input_ids": rng.integers(5, VOCAB, length), "xpath_tags_seq": tags, "xpath_subs_seq": subs}


def _sounds(rng: np.random.Generator, length: int) -> Arrays:
    return {"input_features": rng.normal(size=(length, 12)).astype(np.float32)}


def _embeddings(rng: np.random.Generator, length: int) -> Arrays:
    return {"inputs_embeds": rng.normal(size=(length, HIDDEN)).astype(np.float32)}


FAMILIES = {
    "layoutlm": Family("layoutlm", {"max_2d_position_embeddings": 64}, _boxes),
    "markuplm": Family(
        "markuplm", {"max_depth": 5, "max_xpath_tag_unit_embeddings": 32, "max_xpath_subs_unit_embeddings": 32}, _paths
    ),
    "wav2vec2-bert": Family(
        "wav2vec2-bert",
        {"feature_projection_input_dim": 12, "conv_depthwise_kernel_size": 3, "output_hidden_size": HIDDEN},
        _sounds,
    ),
    "bert on inputs_embeds": Family("bert", {}, _embeddings),
}


def sample(family: str, length: int, seed: int) -> Arrays:
    drawn = FAMILIES[family].draw(np.random.default_rng(seed), length)
    return {**drawn, "attention_mask": np.ones(length, np.int64)}


@cache
def exported(family: str) -> onnx.ModelProto:
    """The model as torch exports it, with random weights; its output is ``hidden``."""
    import torch
    import transformers

    from tests.torch_export import quiet

    torch.manual_seed(0)
    row = FAMILIES[family]
    config = transformers.CONFIG_MAPPING[row.model_type](**SIZES, **row.sizes)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    first, second = sample(family, 11, 0), sample(family, 11, 1)
    feeds = {name: torch.from_numpy(np.stack([value, second[name]])) for name, value in first.items()}

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
            return self.model(**dict(zip(feeds, arrays, strict=True)), return_dict=True).last_hidden_state

    buffer = io.BytesIO()
    axes = {name: {0: "batch", 1: "seq"} for name in (*feeds, "hidden")}
    options = {"input_names": list(feeds), "output_names": ["hidden"], "dynamic_axes": axes}
    with quiet():
        torch.onnx.export(Hidden(), tuple(feeds.values()), buffer, dynamo=False, opset_version=17, **options)
    return onnx.load_model_from_string(buffer.getvalue())


def sound_encoder(*, mask: bool) -> onnx.ModelProto:
    """A Wav2Vec2 on raw sound [batch, time]; with a mask its front end normalises each place, else over the sound."""
    import torch
    import transformers

    from tests.torch_export import quiet

    torch.manual_seed(0)
    own = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if mask else {}
    config = transformers.Wav2Vec2Config(
        **{name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
        intermediate_size=16,
        conv_dim=(8,) * 4,
        conv_stride=(5, 2, 2, 2),
        conv_kernel=(10, 3, 3, 2),
        num_feat_extract_layers=4,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        apply_spec_augment=False,
        **own,
    )
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, sound: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            return self.model(sound, attention_mask=attention_mask).last_hidden_state

    sound, ones = torch.randn(2, 900), torch.ones(2, 900, dtype=torch.int64)
    names = ["sound", "attention_mask"][: 1 + mask]
    buffer = io.BytesIO()
    axes = {name: {0: "batch", 1: "time"} for name in names} | {"hidden": {0: "batch", 1: "frames"}}
    options = {"input_names": names, "output_names": ["hidden"], "dynamic_axes": axes}
    with quiet():
        torch.onnx.export(Hidden(), (sound, ones)[: 1 + mask], buffer, dynamo=False, opset_version=17, **options)
    return onnx.load_model_from_string(buffer.getvalue())


@pytest.mark.parametrize("mask", [True, False])
def test_an_encoder_of_raw_sound_packs_behind_its_strided_convolutions(mask: bool) -> None:
    model, longest = sound_encoder(mask=mask), 2000
    rng = np.random.default_rng(0)
    batch: list[Arrays] = [
        {"sound": rng.normal(size=n).astype(np.float32), "attention_mask": np.ones(n, np.int64)}
        for n in rng.integers(60, longest + 1, 20)
    ]
    if not mask:
        batch = [{"sound": sample["sound"]} for sample in batch]
    shapes = {name: [ROWS, longest] for name in batch[0]}
    pack_args = {"max_valid_num": MOST, "segment_max_size": longest}
    converter = Converter(input_shape=shapes, pack_args=pack_args, check=True, disable_progress_bar=True)
    compiled = Compiler.compile(converter.convert(onnx.ModelProto.FromString(model.SerializeToString())))
    assert converter.verification.passed
    assert compiled.packing is not None
    assert compiled.packing.subsampling == (60, 40, 0)
    assert compiled.packing.mask == ("attention_mask" if mask else "")
    assert compiled.packing.neighbours == ("any" if mask else "same_length")
    assert compiled.packing.padded_bytes(1, longest) < 1 << 20  # 49 places, not 2000, are compared in pairs
    want = alone(model, batch)
    with PackRunner(compiled, PackRunnerConfig(), threads=1) as runner, ThreadPoolExecutor(14) as pool:

        def answer(index: int) -> None:
            out = np.full(want[index]["hidden"].shape, np.nan, np.float32)
            runner.execute(batch[index], {"hidden": out})
            np.testing.assert_allclose(out, want[index]["hidden"], atol=1e-5, rtol=1e-5)

        list(pool.map(answer, range(len(batch))))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_of_array_tokens_packs_and_serves_each_of_many_threads(family: str) -> None:
    model = exported(family)
    batch = [sample(family, length, seed) for seed, length in enumerate(LENGTHS)]
    shapes = {name: [ROWS, COLUMNS, *array.shape[1:]] for name, array in batch[0].items()}
    pack_args = {"max_valid_num": MOST, "segment_max_size": COLUMNS}
    converter = Converter(input_shape=shapes, pack_args=pack_args, check=True, disable_progress_bar=True)
    compiled = Compiler.compile(converter.convert(onnx.ModelProto.FromString(model.SerializeToString())))
    assert converter.isolation.findings
    assert converter.verification.passed
    assert_served(compiled, batch * 2, alone(model, batch) * 2)
