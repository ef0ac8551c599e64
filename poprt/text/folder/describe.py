"""What the folder says of labels and scores, for the facts of the executable."""

from __future__ import annotations

from typing import Any

from poprt.errors import PoprtError
from poprt.text.facts import CLASSIFICATION, EMBEDDING, QUESTION_ANSWERING, RERANKING, TextFacts
from poprt.text.folder.files import ModelFolder
from poprt.text.folder.modules import read_prompts
from poprt.text.folder.task import Answer, label_names

#: torch's modules that a cross-encoder may apply to its logit.
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "none"}


def describe(folder: ModelFolder, answer: Answer, longest: int) -> TextFacts:
    """The facts that do not depend on the graph's head.

    Raises:
        PoprtError: a file says what cannot be.
    """
    tokens, config = folder.special_tokens, folder.tokenizer_config
    names = config.get("model_input_names")
    prompts, default, similarity = read_prompts(folder) if answer.task == EMBEDDING else ({}, "", "")
    labels = () if answer.task in (EMBEDDING, QUESTION_ANSWERING) else tuple(_labels(folder, answer))
    return TextFacts(
        name=_name(folder),
        task=answer.task,
        outputs=tuple(output.name for output in answer.outputs),
        max_length=longest,
        labels=labels,
        activation=_activation(folder.config, answer.task, len(labels)),
        prompts=prompts,
        default_prompt=default,
        similarity=similarity,
        strip=answer.task in (EMBEDDING, RERANKING),
        lower=answer.task == EMBEDDING and folder.table("sentence_bert_config.json").get("do_lower_case") is True,
        truncation_side="left" if config.get("truncation_side") == "left" else "right",
        type_ids=not isinstance(names, list) or "token_type_ids" in names,
        question_first=config.get("padding_side") != "left",
        unk_token=tokens.get("unk_token", ""),
        cls_token=tokens.get("cls_token", ""),
    )


def _name(folder: ModelFolder) -> str:
    said = folder.config.get("_name_or_path")
    return said if isinstance(said, str) and said and not said.startswith((".", "/")) else folder.path.resolve().name


def _labels(folder: ModelFolder, answer: Answer) -> list[str]:
    labels, width = label_names(folder.config), answer.outputs[0].width
    if answer.task == RERANKING and width > 1:
        raise PoprtError(f"reranking needs one logit, {answer.outputs[0].name!r} has {width}: leave out --task")
    if not width or len(labels) == width:
        return labels
    if "id2label" in folder.config:
        raise PoprtError(f"config.json names {len(labels)} labels, {answer.outputs[0].name!r} has {width} logits")
    return [f"LABEL_{number}" for number in range(width)]


def _activation(config: dict[str, Any], task: str, labels: int) -> str:
    if task == RERANKING:
        return _reranking_activation(config)
    if task != CLASSIFICATION:
        return "none"
    kind = config.get("problem_type")
    if kind == "regression":
        return "none"
    return "sigmoid" if kind == "multi_label_classification" or labels == 1 else "softmax"


def _reranking_activation(config: dict[str, Any]) -> str:
    own = config.get("sentence_transformers")
    said = own.get("activation_fn") if isinstance(own, dict) else None
    said = said or config.get("sbert_ce_default_activation_function") or "Sigmoid"
    name = str(said).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise PoprtError(f"config.json: activation_fn is {said!r}, expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]
