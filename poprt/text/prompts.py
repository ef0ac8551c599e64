"""The text that stands before each input of an embedding model, where it was trained with one."""

from __future__ import annotations

from poprt.errors import InputError
from poprt.text.facts import TextFacts
from poprt.text.inputs import check_text


def prompt_text(facts: TextFacts, prompt_name: str | None = None, prompt: str | None = None) -> str:
    """The prompt itself; "" is none.

    Args:
        facts: of the model.
        prompt_name: which of the model's; None takes its default one.
        prompt: it, where it is none of the model's.

    Raises:
        InputError: the model has no such prompt.
    """
    name = prompt_name if prompt_name is not None else facts.default_prompt
    if prompt is not None:
        return check_text(prompt, "prompt")
    if not name:
        return ""
    if name not in facts.prompts:
        names = ", ".join(map(repr, facts.prompts)) or "none"
        raise InputError(f"prompt_name is {name!r}, the model's prompts are {names}")
    return facts.prompts[name]
