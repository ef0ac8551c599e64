"""How torch and transformers write a tiny encoder as ONNX. Imported only where both are installed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.exports import VOCAB, Family, config_fields

_AUTO = {
    "qa": transformers.AutoModelForQuestionAnswering,
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
}
_OUTPUTS = {
    "qa": ["start_logits", "end_logits"],
    "sequence": ["logits"],
    "token": ["logits"],
    "mean": ["sentence_embedding"],
    "hidden": ["last_hidden_state"],
    "pooled": ["pooler_output"],
}
_FEATURES = {
    "qa": "question-answering",
    "sequence": "sequence-classification",
    "token": "token-classification",
    "hidden": "default",
}


class WithHead(torch.nn.Module):  # type: ignore[misc]  # torch may be absent where types are checked
    """The model with its outputs as a plain tuple; pools where the head is "mean"."""

    def __init__(self, model: torch.nn.Module, head: str) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **types)
        if self.head != "mean":
            return tuple(result[name] for name in _OUTPUTS[self.head])
        hidden = result.last_hidden_state
        weights = attention_mask.unsqueeze(-1).expand(hidden.shape).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return (torch.nn.functional.normalize(mean, dim=1),)


def write(
    row: Family,
    head: str,
    exporter: str,
    attention: str,
    path: Path,
    *,
    shape: tuple[int, int] | None = None,
    opset: int | None = None,
) -> None:
    """Make the model and export it to ``path``; the file appears only when it is whole.

    ``shape`` fixes batch and sequence; without it both are open. ``opset`` is the exporter's own without it.
    """
    model = _model(row, head, attention)
    partial = path.with_name(f"{path.stem}.partial.onnx")
    with quiet():
        if exporter == "transformers-onnx":
            _transformers_onnx(model, head, partial, opset)
        else:
            dynamo = exporter == "torch-new"
            _torch_onnx(WithHead(model, head), row, head, partial, dynamo=dynamo, shape=shape, opset=opset)
    os.replace(partial, path)


def _model(row: Family, head: str, attention: str) -> Any:
    """The family's model; biases and norm scales are random too, so that no one of them is inert."""
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    config = transformers.CONFIG_MAPPING[row.model_type](**config_fields(row, head))
    config.use_cache = False
    if row.model_type in ("t5", "umt5"):
        model = getattr(transformers, f"{'UMT5' if row.model_type == 'umt5' else 'T5'}EncoderModel")(config)
    else:
        model = _AUTO.get(head, transformers.AutoModel).from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def _torch_onnx(
    model: WithHead,
    row: Family,
    head: str,
    path: Path,
    *,
    dynamo: bool,
    shape: tuple[int, int] | None,
    opset: int | None,
) -> None:
    ids = torch.randint(5, VOCAB, shape or (2, 11))
    feeds = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if row.types:
        feeds["token_type_ids"] = torch.zeros_like(ids)
    options: dict[str, Any] = {"input_names": list(feeds), "output_names": _OUTPUTS[head]}
    if dynamo:
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}
        if shape is None:
            options["dynamic_shapes"] = dict.fromkeys(feeds, axes)
        options.update(kwargs=feeds, external_data=False, verbose=False, opset_version=opset)
        torch.onnx.export(model, (), str(path), dynamo=True, **options)
    else:
        open_axes = {name: {0: "batch", 1: "seq"} for name in feeds}
        by_token = {"qa": {0: "batch", 1: "seq"}, "token": {0: "batch", 1: "seq"}, "hidden": {0: "batch", 1: "seq"}}
        open_axes.update({name: by_token.get(head, {0: "batch"}) for name in _OUTPUTS[head]})
        options["dynamic_axes"] = open_axes if shape is None else None
        torch.onnx.export(model, tuple(feeds.values()), str(path), dynamo=False, opset_version=opset or 17, **options)


def _transformers_onnx(model: Any, head: str, path: Path, opset: int | None) -> None:
    """Run ``python -m transformers.onnx`` on a saved checkpoint with a tokenizer beside it."""
    checkpoint, out = path.with_suffix(".checkpoint"), path.with_suffix(".out")
    model.save_pretrained(checkpoint, safe_serialization=False)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{index}" for index in range(VOCAB - 5))]
    (checkpoint / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizerFast(str(checkpoint / "vocab.txt")).save_pretrained(checkpoint)
    command = [
        sys.executable,
        "-m",
        "transformers.onnx",
        "--model",
        str(checkpoint),
        "--feature",
        _FEATURES[head],
        "--export_with_transformers",  # where Optimum is installed, it would be asked instead
        *(["--opset", str(opset)] if opset else []),
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"transformers.onnx failed:\n{done.stdout}\n{done.stderr}")
    import onnx

    onnx.save(onnx.load(str(out / "model.onnx")), str(path))  # its weights lie in a second file; make it one


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn and print by the page."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
