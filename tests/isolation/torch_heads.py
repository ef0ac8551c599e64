"""Heads on a tiny encoder, written in torch as people write them. Imported only where torch is installed."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from tests.numerics import Arrays

VOCAB, HIDDEN, HEADS, LONGEST = 50, 16, 2, 32
_LOW = torch.finfo(torch.float32).min


class Tiny(nn.Module):  # type: ignore[misc]  # torch may be absent where types are checked
    """An encoder of one layer with a correct attention mask, and modules that heads use. Random, the same each time."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(VOCAB, HIDDEN), nn.Embedding(LONGEST, HIDDEN)
        self.project, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.first, self.second = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.inner, self.outer = nn.Linear(HIDDEN, 32), nn.Linear(32, HIDDEN)
        self.score, self.gru = nn.Linear(HIDDEN, 1), nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True, bidirectional=True)
        self.instance, self.conv = nn.InstanceNorm1d(HIDDEN), nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1)
        self.head = head
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1])
        x = self.words(input_ids) + self.places(places)
        query, key, value = (
            part.view(*part.shape[:2], HEADS, -1).transpose(1, 2) for part in self.project(x).chunk(3, -1)
        )
        drop = (1.0 - attention_mask[:, None, None, :].float()) * _LOW
        weights = (query @ key.transpose(-1, -2) * (HIDDEN // HEADS) ** -0.5 + drop).softmax(-1)
        context = (weights @ value).transpose(1, 2).flatten(2)
        x = self.first(x + self.out(context))
        x = self.second(x + self.outer(nn.functional.gelu(self.inner(x))))
        return self.head(self, x, attention_mask)


Head = Callable[[Tiny, Tensor, Tensor], Tensor]


def _column(mask: Tensor) -> Tensor:
    return mask[..., None].float()


def _pooled(scores: Tensor, h: Tensor) -> Tensor:
    return (scores.softmax(1) * h).sum(1)


#: Correct heads: padding is hidden from them. These pack in every layout.
RIGHT: dict[str, Head] = {
    "softmax over masked scores": lambda e, h, m: _pooled(e.score(h).masked_fill(_column(m) == 0, -1e9), h),
    "softmax over scores plus the mask": lambda e, h, m: _pooled(e.score(h) + (1 - _column(m)) * _LOW, h),
    "masked_fill -1e9, amax": lambda e, h, m: h.masked_fill(_column(m) == 0, -1e9).amax(1),
    "masked mean": lambda e, h, m: (h * _column(m)).sum(1) / _column(m).sum(1).clamp(min=1e-9),
    "masked sum": lambda e, h, m: (h * _column(m)).sum(1),
    "first": lambda e, h, m: h[:, 0],
    "tokens": lambda e, h, m: e.out(h),
}
#: Heads that look along the sequence without hiding padding, or hide it in a way that does not do.
OTHERS: dict[str, Head] = {
    "AdaptiveAvgPool1d": lambda e, h, m: nn.functional.adaptive_avg_pool1d(h.transpose(1, 2), 1).squeeze(2),
    "AdaptiveMaxPool1d": lambda e, h, m: nn.functional.adaptive_max_pool1d(h.transpose(1, 2), 1).squeeze(2),
    "mean": lambda e, h, m: h.mean(1),
    "amax": lambda e, h, m: h.amax(1),
    "last": lambda e, h, m: h[:, -1],
    "last, kept": lambda e, h, m: h[:, -1:],
    "last 4": lambda e, h, m: h[:, -4:].mean(1),
    "flip": lambda e, h, m: h.flip(1)[:, 0],
    "flipped": lambda e, h, m: h.flip(1),
    "GRU's last state": lambda e, h, m: e.gru(h)[1][0],
    "LSTM's states": lambda e, h, m: e.lstm(h)[0],
    "InstanceNorm1d": lambda e, h, m: e.instance(h.transpose(1, 2)).transpose(1, 2),
    "softmax over scores times the mask": lambda e, h, m: _pooled(e.score(h) * _column(m), h),
    "softmax over scores": lambda e, h, m: _pooled(e.score(h), h),
    "max_pool1d": lambda e, h, m: nn.functional.max_pool1d(h.transpose(1, 2), 3, 1, 1).transpose(1, 2),
    "conv1d": lambda e, h, m: e.conv(h.transpose(1, 2)).transpose(1, 2),
    "einsum": lambda e, h, m: torch.einsum("bsh,bs->bh", h, e.score(h)[..., 0]),
    "norm": lambda e, h, m: h.norm(dim=1),
    "logsumexp": lambda e, h, m: h.logsumexp(1),
    "topk": lambda e, h, m: h.topk(1, 1).values[:, 0],
    "argmax": lambda e, h, m: h.argmax(1),
    "cumsum": lambda e, h, m: h.flip(1).cumsum(1).flip(1),
    "flatten": lambda e, h, m: h.flatten(1).amax(1),
    "std": lambda e, h, m: h.std(1, unbiased=False),
    "amax of a product": lambda e, h, m: ((h - 9) * _column(m)).amax(1),
    "amin of a product": lambda e, h, m: ((h + 9) * _column(m)).amin(1),
    "logsumexp of a product": lambda e, h, m: ((h - 9) * _column(m)).logsumexp(1),
    "topk of a product": lambda e, h, m: ((h - 9) * _column(m)).topk(1, 1).values[:, 0],
    "masked_fill -1, amax": lambda e, h, m: (h - 9).masked_fill(_column(m) == 0, -1.0).amax(1),
    "negated plus the mask": lambda e, h, m: (-h + (1 - _column(m)) * -1e9).amax(1),
    "tokens plus the mask": lambda e, h, m: h + (1 - _column(m)) * -1e9,
    "mean over all by the own length": lambda e, h, m: h.sum(1) / _column(m).sum(1),
    "length": lambda e, h, m: h[:, 0] * h.shape[1],
    "batch": lambda e, h, m: h[:, 0] + h[:, 0].mean(0, keepdim=True),
    "batch size": lambda e, h, m: h[:, 0] / h.shape[0],
    "last by the mask": lambda e, h, m: h[torch.arange(h.shape[0]), m.sum(1) - 1],
    "last by gather": lambda e, h, m: h.gather(1, (m.sum(1) - 1)[:, None, None].expand(-1, 1, HIDDEN))[:, 0],
}
HEADS_BY_NAME = RIGHT | OTHERS
#: Heads that make much of a small difference.
ILL_CONDITIONED = frozenset({"InstanceNorm1d"})


def exported(head: str) -> onnx.ModelProto:
    """The encoder with this head as the TorchScript exporter writes it; batch and sequence are open."""
    module = Tiny(HEADS_BY_NAME[head]).eval()
    ids = torch.randint(1, VOCAB, (2, 11))
    names = ["input_ids", "attention_mask"]
    file = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (ids, torch.ones_like(ids)),
            file,
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["answer"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names},
        )
    return onnx.load_from_string(file.getvalue())


def alone(head: str, samples: Sequence[Arrays]) -> list[np.ndarray]:
    """What torch gives for each sample alone, unpadded, without the batch axis."""
    module = Tiny(HEADS_BY_NAME[head]).eval()
    with torch.no_grad():
        return [module(*(torch.from_numpy(array)[None] for array in sample.values()))[0].numpy() for sample in samples]
