"""What sentence-transformers says of a model: which modules follow the encoder, and its prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from poprt.errors import PoprtError
from poprt.text.folder.files import ModelFolder

#: Flags of a pooling module -> what we call them. This is the order in which several are joined.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = tuple(_FLAGS.values())
_OTHER_NAMES = {"mean_sqrt_len_tokens": "mean_sqrt_len"}
_WITHOUT_EFFECT = ("Dropout",)


@dataclass(frozen=True)
class Head:
    """What follows the encoder, in this order.

    Attributes:
        poolings: names of :data:`POOLINGS`; several are joined. Empty where nothing says how to pool.
        dense: folders of dense layers.
        normalise: whether the result is brought to length 1.
    """

    poolings: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    normalise: bool = False


def read_head(folder: ModelFolder) -> Head | None:
    """The modules that ``modules.json`` lists behind the encoder; None where the folder has no such file.

    Raises:
        PoprtError: a module is none that is known here; the message names it.
    """
    modules = folder.json("modules.json")
    if modules is None:
        return None
    if not isinstance(modules, list) or not all(isinstance(item, dict) for item in modules):
        raise PoprtError(f"{str(folder.path / 'modules.json')!r} is no list of modules")
    head = Head()
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind in ("Transformer", *_WITHOUT_EFFECT):
            continue
        head = _with_module(head, kind, str(module.get("path", "")), folder)
    return head


def _with_module(head: Head, kind: str, path: str, folder: ModelFolder) -> Head:
    if kind == "Pooling" and not head.poolings:
        return replace(head, poolings=_poolings(folder, f"{path}/config.json"))
    if kind == "Dense" and head.poolings and not head.normalise:
        return replace(head, dense=(*head.dense, path))
    if kind == "Normalize" and head.poolings:
        return replace(head, normalise=True)
    raise PoprtError(
        f"{str(folder.path / 'modules.json')!r}: module {kind!r} ({path!r}) cannot be added to a graph in this place; "
        "expected Transformer, Pooling, Dense, Normalize in this order. Export the whole model, with an output "
        "sentence_embedding, and remove modules.json"
    )


def _poolings(folder: ModelFolder, file: str) -> tuple[str, ...]:
    config = folder.table(file)
    if config.get("include_prompt") is False:
        raise PoprtError(
            f"{str(folder.path / file)!r}: include_prompt is false; that pooling leaves a prompt's tokens out is not "
            "available in this version"
        )
    mode = config.get("pooling_mode")
    if isinstance(mode, str):
        poolings = tuple(_OTHER_NAMES.get(name, name) for name in mode.split("+"))
    else:
        poolings = tuple(name for flag, name in _FLAGS.items() if config.get(flag) is True)
    unknown = [name for name in poolings if name not in POOLINGS]
    if unknown or not poolings:
        known_modes = ", ".join(POOLINGS)
        raise PoprtError(
            f"{str(folder.path / file)!r}: pooling is {', '.join(unknown) or 'not said'}, expected of {known_modes}; "
            "--pooling says it instead"
        )
    return poolings


def read_prompts(folder: ModelFolder) -> tuple[dict[str, str], str, str]:
    """Prompts by name, the name of the default one, and how embeddings are compared; empty where nothing is said.

    Raises:
        PoprtError: they are no texts.
    """
    file = "config_sentence_transformers.json"
    config = folder.table(file)
    prompts: Any = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise PoprtError(f"{str(folder.path / file)!r}: prompts is no table of texts")
    default = config.get("default_prompt_name") or ""
    if default and default not in prompts:
        raise PoprtError(f"{str(folder.path / file)!r}: default_prompt_name {default!r} is none of its prompts")
    return prompts, default, str(config.get("similarity_fn_name") or "")
