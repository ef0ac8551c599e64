"""How a packed model says how it is packed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import onnx

from passes.errors import RewriteError
from passes.numbers import LARGEST_EXTENT

#: The ``metadata_props`` key: a JSON object with the fields of ``poprt.executable.PackingSpec`` (``ragged`` excepted),
#: ``shape_agnostic`` (nothing inside depends on the declared extents), ``packed_flops`` and ``total_flops``.
METADATA_KEY = "poprt.packing"

#: The input that holds the lengths of the samples, int32 [max_valid_num, segments].
UNPACK_INFO = "unpack_info"

_STYLES = ("unpack_repack", "attention_mask")
_LAYOUTS = ("tokens", "sample", "packed")


def packing_of(model: onnx.ModelProto) -> dict[str, Any] | None:
    """What ``model`` says of its packing, checked; None where it is not packed.

    Raises:
        RewriteError: its metadata are damaged; the message names the field.
    """
    text = next((item.value for item in model.metadata_props if item.key == METADATA_KEY), None)
    return None if text is None else parse_packing(text, [value.name for value in model.graph.input])


def parse_packing(text: str, inputs: Collection[str]) -> dict[str, Any]:
    """Read the value of :data:`METADATA_KEY` in a model with these inputs.

    Raises:
        RewriteError: it is no JSON object, or a field is missing or not of its kind; the message names the field.
    """
    said = packing_object(text)
    for name, (fits, expected) in [*_FIELDS.items(), *_LATER_FIELDS.items()]:
        if not fits(said.get(name)) and not (name in _LATER_FIELDS and name not in said):
            raise _damaged(f"{name} is {said.get(name)!r}, expected {expected}")
    named = [*said["dynamic_inputs"], *filter(None, [said["unpack_info"]])]
    for name in named:
        if name not in inputs:
            raise _damaged(f"it names {name!r}, which is no input of the model; its inputs are {list(inputs)}")
    return said


def packing_object(text: str) -> dict[str, Any]:
    """The JSON object in the value of :data:`METADATA_KEY`, its fields as they are.

    Raises:
        RewriteError: it is no JSON object.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"they are no JSON: {error}") from error
    if not isinstance(said, dict):
        raise _damaged("they are no JSON object")
    return said


def _damaged(why: str) -> RewriteError:
    return RewriteError(f"the model's metadata {METADATA_KEY!r} are damaged: {why}; convert the original model again")


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST_EXTENT

    return fits, f"a whole number from {least} to {LARGEST_EXTENT}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(fits(item) for item in value)


def _is_layouts(value: Any) -> bool:
    return isinstance(value, dict) and all(layout in _LAYOUTS for layout in value.values())


_NEIGHBOURS = ("any", "same_length", "none")

#: What each field has to be: a test, and words for it.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "style": (lambda value: value in _STYLES, f"one of {', '.join(_STYLES)}"),
    "rows": _whole(0),
    "columns": _whole(0),
    "max_valid_num": _whole(1),
    "segment_max_size": (_is_list_of(_whole(1)[0]), "a list of positive whole numbers"),
    "unpack_info": (_is_text, "the name of an input, or an empty text"),
    "dynamic_inputs": (_is_list_of(_is_text), "a list of names of inputs"),
    "mask": (_is_text, "a text"),
    "position_ids": (_is_text, "a text"),
    "outputs": (_is_layouts, f"output names with their layouts, one of {', '.join(_LAYOUTS)}"),
    "shape_agnostic": (lambda value: isinstance(value, bool), "true or false"),
}


def _is_axes_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_list_of(_whole(1)[0])(axes) for axes in value.values())


#: Fields that a model may lack, which an earlier version packed.
_LATER_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "neighbours": (lambda value: value in _NEIGHBOURS, f"one of {', '.join(_NEIGHBOURS)}"),
    "isolation": (_is_text, "a text"),
    "token_axes": (_is_axes_by_name, "output names with lists of axes"),
}
