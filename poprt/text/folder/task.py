"""What a model is for, and which of the graph's outputs hold the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poprt.errors import PoprtError
from poprt.text.facts import BY_TOKEN, CLASSIFICATION, EMBEDDING, QUESTION_ANSWERING, RERANKING, TOKEN_CLASSIFICATION
from poprt.text.folder.files import ModelFolder
from poprt.text.folder.graph import Output

#: How architectures end -> what they are for. One logit reranks.
_ENDINGS = {
    "ForSequenceClassification": CLASSIFICATION,
    "ForTokenClassification": TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": QUESTION_ANSWERING,
}
#: Names that exporters give to a pooled embedding, and to the vectors of tokens, the likeliest first.
_POOLED = ("sentence_embedding", "text_embeds", "embedding", "embeddings", "pooler_output")
_HIDDEN = ("token_embeddings", "last_hidden_state")


@dataclass(frozen=True)
class Answer:
    """Where the answer is.

    Attributes:
        task: what the model is for.
        outputs: the outputs that hold the answer.
        pooled: whether an embedding is one vector a text already; otherwise it is one a token.
    """

    task: str
    outputs: tuple[Output, ...]
    pooled: bool = True


def find_answer(folder: ModelFolder, outputs: Sequence[Output], asked: str | None, pools: bool) -> Answer:
    """Decide by the config and the graph.

    Args:
        folder: its ``config.json`` names the architecture.
        outputs: the graph's outputs of floats.
        asked: the task that the caller says; None leaves it to the folder.
        pools: whether the caller says how to pool, so that token vectors are preferred to a pooled embedding.

    Raises:
        PoprtError: config and graph do not fit each other, or the graph has no output of such a kind.
    """
    task = asked or _by_config(folder)
    if task == QUESTION_ANSWERING:
        return Answer(task, _start_and_end(outputs))
    if task == EMBEDDING:
        return _embedding(outputs, pools)
    rank = 3 if task in BY_TOKEN else 2
    logits = _pick(outputs, ("logits",), rank)
    if logits is None:
        raise PoprtError(
            f"the model is for {task}, and the graph has no output of rank {rank} with a score for each label; it has "
            f"{_listed(outputs)}. --task says what it is for"
        )
    return Answer(_with_one_logit(task, logits, folder) if asked is None else task, (logits,))


def _by_config(folder: ModelFolder) -> str:
    if (folder.path / "modules.json").is_file():
        return EMBEDDING
    architectures = folder.config.get("architectures")
    names = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    tasks = {task for name in names for ending, task in _ENDINGS.items() if name.endswith(ending)}
    return tasks.pop() if len(tasks) == 1 else EMBEDDING


def _with_one_logit(task: str, logits: Output, folder: ModelFolder) -> str:
    single = logits.width == 1 or (not logits.width and len(label_names(folder.config)) == 1)
    return RERANKING if task == CLASSIFICATION and single else task


def _start_and_end(outputs: Sequence[Output]) -> tuple[Output, ...]:
    by_name = {output.name: output for output in outputs}
    if not {"start_logits", "end_logits"} <= set(by_name):
        raise PoprtError(
            f"the model is for {QUESTION_ANSWERING}, and the graph lacks start_logits or end_logits; it has "
            f"{_listed(outputs)}. --task says what it is for"
        )
    return by_name["start_logits"], by_name["end_logits"]


def _embedding(outputs: Sequence[Output], pools: bool) -> Answer:
    hidden = _pick(outputs, _HIDDEN, 3)
    pooled = _pick(outputs, _POOLED[:-1] if hidden else _POOLED, 2)
    if pooled is not None and not (pools and hidden):
        if pools:
            raise PoprtError(f"--pooling: {pooled.name!r} is pooled already, and the graph gives no vectors of tokens")
        return Answer(EMBEDDING, (pooled,))
    if hidden is None:
        raise PoprtError(f"the graph has neither an embedding nor vectors of tokens; it has {_listed(outputs)}")
    return Answer(EMBEDDING, (hidden,), pooled=False)


def _pick(outputs: Sequence[Output], names: Sequence[str], rank: int) -> Output | None:
    """The output of this rank with the likeliest name, else the only one of this rank."""
    fitting = [output for output in outputs if output.rank in (rank, None)]
    named = [output for name in names for output in fitting if output.name == name]
    others = [output for output in fitting if output.rank == rank and output.name not in (*_POOLED, *_HIDDEN)]
    return named[0] if named else others[0] if len(others) == 1 else None


def _listed(outputs: Sequence[Output]) -> str:
    return ", ".join(f"{output.name} (rank {output.rank})" for output in outputs) or "none of floats"


def label_names(config: Mapping[str, Any]) -> list[str]:
    """The names of the labels, in the order of the logits; as many as the config says, with transformers' names."""
    table = config.get("id2label")
    if isinstance(table, dict) and table:
        try:
            by_number = {int(number): str(name) for number, name in table.items()}
        except ValueError:
            by_number = {}
        if sorted(by_number) == list(range(len(by_number))) and by_number:
            return [by_number[number] for number in range(len(by_number))]
        raise PoprtError("config.json: id2label is no table of the numbers 0, 1, ... and names")
    count = config.get("num_labels", 2)
    return [f"LABEL_{number}" for number in range(count if type(count) is int else 2)]
