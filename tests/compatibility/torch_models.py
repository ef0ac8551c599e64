"""Small models of the kinds that programs for PopRT serve, with random weights, as torch writes them at old opsets.

Imported only where torch and transformers are installed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import torch
import transformers

from tests.torch_export import quiet

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_PICTURE = {"image_size": 32, "patch_size": 8}
_CLASSES = 5


@dataclass(frozen=True)
class Exported:
    """A model, what it takes, and what it gives.

    Attributes:
        feeds: input name -> a batch of two, from which others are drawn.
    """

    module: torch.nn.Module
    feeds: dict[str, torch.Tensor]
    outputs: tuple[str, ...]


class Outputs(torch.nn.Module):  # type: ignore[misc]  # torch may be absent where types are checked
    """A model of transformers that gives a tuple of named results."""

    def __init__(self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.model(**dict(zip(self.inputs, tensors, strict=True)), return_dict=True)
        return tuple(result[name] for name in self.outputs)


def _of_transformers(model: Any, feeds: dict[str, torch.Tensor], *outputs: str) -> Exported:
    return Exported(Outputs(model, tuple(feeds), outputs), feeds, outputs)


def _eager(kind: Any, config: Any) -> Any:
    return kind._from_config(config, attn_implementation="eager")


def vit() -> Exported:
    config = transformers.ViTConfig(**_SMALL, **_PICTURE, num_labels=_CLASSES)
    model = _eager(transformers.ViTForImageClassification, config)
    return _of_transformers(model, {"pixel_values": torch.randn(2, 3, 32, 32)}, "logits")


def swin() -> Exported:
    sizes = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
    config = transformers.SwinConfig(image_size=32, patch_size=4, num_labels=_CLASSES, **sizes)
    model = _eager(transformers.SwinForImageClassification, config)
    return _of_transformers(model, {"pixel_values": torch.randn(2, 3, 32, 32)}, "logits")


def clip() -> Exported:
    words = {**_SMALL, "vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 99}
    config = transformers.CLIPConfig(text_config=words, vision_config={**_SMALL, **_PICTURE}, projection_dim=16)
    ids = torch.randint(2, 90, (2, 8))
    ids[:, -1] = 99  # the text's embedding is read at its end
    feeds = {
        "input_ids": ids,
        "pixel_values": torch.randn(2, 3, 32, 32),
        "attention_mask": torch.ones_like(ids),
    }
    return _of_transformers(_eager(transformers.CLIPModel, config), feeds, "text_embeds", "image_embeds")


def resnet() -> Exported:
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], num_labels=_CLASSES)
    model = transformers.ResNetForImageClassification(config)
    return _of_transformers(model, {"pixel_values": torch.randn(2, 3, 32, 32)}, "logits")


def conformer() -> Exported:
    sound = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "max_source_positions": 200}
    config = transformers.Wav2Vec2ConformerConfig(
        **_SMALL, **sound, **positions, conv_depthwise_kernel_size=7, vocab_size=20
    )
    model = transformers.Wav2Vec2ConformerForCTC(config)
    return _of_transformers(model, {"input_values": torch.randn(2, 400)}, "logits")


class WideDeep(torch.nn.Module):  # type: ignore[misc]
    """Tables for a linear part and for a network; both say how likely a click is."""

    def __init__(self, tables: int = 6, numbers: int = 13) -> None:
        super().__init__()
        self.wide = torch.nn.ModuleList(torch.nn.Embedding(50, 1) for _ in range(tables))
        self.deep = torch.nn.ModuleList(torch.nn.Embedding(50, 8) for _ in range(tables))
        layers = [torch.nn.Linear(8 * tables + numbers, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU()]
        self.network = torch.nn.Sequential(*layers, torch.nn.Linear(64, 1))

    def forward(self, categories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        looked_up = [table(categories[:, place]) for place, table in enumerate(self.deep)]
        linear = sum(table(categories[:, place]) for place, table in enumerate(self.wide))
        return torch.sigmoid(self.network(torch.cat([*looked_up, numbers.log1p()], 1)) + linear)


def wide_deep() -> Exported:
    feeds = {"categories": torch.randint(0, 50, (2, 6)), "numbers": torch.rand(2, 13)}
    return Exported(WideDeep(), feeds, ("probabilities",))


MODELS: dict[str, Callable[[], Exported]] = {
    build.__name__: build for build in (vit, swin, clip, resnet, conformer, wide_deep)
}


def write(name: str, opset: int) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model ``name`` with an open batch, and a batch of two for it, in numpy."""
    torch.manual_seed(0)
    model = MODELS[name]()
    file = io.BytesIO()
    names = [*model.feeds, *model.outputs]
    with quiet():
        torch.onnx.export(
            model.module.eval(),
            tuple(model.feeds.values()),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=list(model.feeds),
            output_names=list(model.outputs),
            dynamic_axes={tensor: {0: "batch"} for tensor in names},
        )
    proto: onnx.ModelProto = onnx.load_from_string(file.getvalue())
    return proto, {tensor: array.numpy() for tensor, array in model.feeds.items()}
