"""``/info``: what a model is, in the words of text-embeddings-inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poprt.serve.models import ServedModel
from poprt.text.facts import EMBEDDING, RERANKING
from poprt.version import VERSION

if TYPE_CHECKING:
    from poprt.serve.options import ServeOptions
    from poprt.text.facts import TextFacts


def info(model: ServedModel, options: ServeOptions) -> dict[str, Any]:
    """What ``/info`` answers."""
    text = model.text
    return {
        "model_id": model.name,
        "model_sha": None,
        "model_dtype": model.executable.outputs[0].dtype,
        "model_type": {"tensors": {}} if text is None else model_type(text.facts),
        "max_concurrent_requests": options.max_queue_requests,
        "max_input_length": None if text is None else text.max_length,
        "max_batch_tokens": options.max_queue_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": options.max_client_batch,
        "auto_truncate": options.auto_truncate,
        "tokenization_workers": model.tokenizer_threads,
        "version": VERSION,
        "prompts": [] if text is None else list(text.prompts),
    }


def model_type(facts: TextFacts) -> dict[str, Any]:
    """The task, with what belongs to it."""
    if facts.task == EMBEDDING:
        return {"embedding": {"pooling": facts.pooling, "dimension": facts.dimension, "normalised": facts.normalised}}
    labels = {
        "id2label": {str(number): label for number, label in enumerate(facts.labels)},
        "label2id": {label: number for number, label in enumerate(facts.labels)},
    }
    names = {RERANKING: "reranker", "sequence-classification": "classifier"}
    return {names.get(facts.task, facts.task.replace("-", "_")): labels}
