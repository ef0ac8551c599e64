"""What a packed model says of itself: one record in its metadata."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from passes.errors import RewriteError
from passes.graph_io import header
from passes.numbers import LARGEST_EXTENT
from poprt_format.packing import NEIGHBOURS, OUTPUT_LAYOUTS, WITHIN_ROWS, Packing, from_former_words

#: The ``metadata_props`` key: a JSON object with the fields of :class:`PackedModel`.
METADATA_KEY = "poprt.packing"

#: The input that holds the lengths of the samples, int32 [max_valid_num, segments].
UNPACK_INFO = "unpack_info"

#: The input that places each token in its sample, where a model has it.
POSITION_IDS = "position_ids"


@dataclass(frozen=True)
class PackedModel(Packing):
    """How a model is packed. A packing pass writes it, all others read it; nobody else knows how it is kept.

    Attributes:
        shape_agnostic: nothing inside depends on the declared extents.
        packed_flops, total_flops: work of the matrix products that run packed, and of all.
    """

    shape_agnostic: bool = dataclasses.field(kw_only=True)
    packed_flops: int = 0
    total_flops: int = 0

    @property
    def ragged(self) -> bool:
        """Whether the model can be lowered to run on just the tokens and samples that are there."""
        return not self.within_rows and self.shape_agnostic and len(self.segment_max_size) == 1

    @property
    def unpacks_inside(self) -> bool:
        """Whether what flows inside has other extents than the inputs declare.

        Where samples share rows and nothing is unpacked at the end, every tensor has the declared extents.
        """
        return not self.within_rows or bool(self.unpack_info)

    def write(self, model: onnx.ModelProto | gs.Graph) -> None:
        """Let ``model`` say that it is packed like this, in place of what it said before."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        if isinstance(model, gs.Graph):
            header(model).metadata[METADATA_KEY] = text
            return
        entry = next((item for item in model.metadata_props if item.key == METADATA_KEY), None)
        (model.metadata_props.add(key=METADATA_KEY) if entry is None else entry).value = text

    @classmethod
    def read(cls, model: onnx.ModelProto | gs.Graph) -> PackedModel | None:
        """What ``model`` says of its packing, checked; None where it is not packed.

        Raises:
            RewriteError: its metadata are no JSON object, or a field is missing or not of its kind; the message names
                the field.
        """
        text = _text(model)
        if text is None:
            return None
        values = from_former_words(_json_object(text))
        for field in dataclasses.fields(cls):
            _check(field, values)
        inputs = [tensor.name for tensor in (model.inputs if isinstance(model, gs.Graph) else model.graph.input)]
        fields = ("dynamic_inputs", "sample_inputs", "run_inputs", "pair_inputs")
        named = [name for field in fields for name in values.get(field, ())]
        for name in [*named, *filter(None, [values["unpack_info"]])]:
            if name not in inputs:
                raise _damaged(f"it names {name!r}, which is no input of the model; its inputs are {inputs}")
        return cls(
            **{field.name: _frozen(values[field.name]) for field in dataclasses.fields(cls) if field.name in values}
        )


def is_packed(model: onnx.ModelProto | gs.Graph) -> bool:
    """Whether the model says that it is packed, in either layout."""
    return _text(model) is not None


def _text(model: onnx.ModelProto | gs.Graph) -> str | None:
    if isinstance(model, gs.Graph):
        return header(model).metadata.get(METADATA_KEY)
    return next((item.value for item in model.metadata_props if item.key == METADATA_KEY), None)


def _json_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"they are no JSON: {error}") from error
    if not isinstance(values, dict):
        raise _damaged("they are no JSON object")
    return values


def _check(field: dataclasses.Field[Any], values: dict[str, Any]) -> None:
    """Refuse a value that is not of the field's kind. One with a default may be missing: older models have less."""
    optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    if optional and field.name not in values:
        return
    fits, expected = _CHECKS[field.name]
    if not fits(values.get(field.name)):
        raise _damaged(f"{field.name} is {values.get(field.name)!r}, expected {expected}")


def _damaged(why: str) -> RewriteError:
    return RewriteError(f"the model's metadata {METADATA_KEY!r} are damaged: {why}; convert the original model again")


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples."""
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    fits = f"a whole number from {least} to {LARGEST_EXTENT}"
    return lambda value: _is_count(value) and least <= value <= LARGEST_EXTENT, fits


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(fits(item) for item in value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_subsampling(value: Any) -> bool:
    fits, _ = _whole(0)
    return isinstance(value, list) and len(value) == 3 and all(map(fits, value)) and min(value[:2]) > 0


def _is_axes_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_list_of(_whole(1)[0])(axes) for axes in value.values())


def _is_pairs_by_name(value: Any) -> bool:
    return _is_axes_by_name(value) and all(len(axes) == 2 and axes[0] < axes[1] for axes in value.values())


def _one_of(words: Iterable[str]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in tuple(words), f"one of {', '.join(words)}"


_LAYOUTS = OUTPUT_LAYOUTS[WITHIN_ROWS]  # all there are

#: What each field has to be: a test, and words for it.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "layout": _one_of(tuple(OUTPUT_LAYOUTS)),
    "rows": _whole(0),
    "columns": _whole(0),
    "max_valid_num": _whole(1),
    "segment_max_size": (_is_list_of(_whole(1)[0]), "a list of positive whole numbers"),
    "unpack_info": (_is_text, "the name of an input, or an empty text"),
    "dynamic_inputs": (_is_list_of(_is_text), "a list of names of inputs"),
    "mask": (_is_text, "a text"),
    "position_ids": (_is_text, "a text"),
    "outputs": (
        lambda value: isinstance(value, dict) and all(layout in _LAYOUTS for layout in value.values()),
        f"output names with their layouts, one of {', '.join(_LAYOUTS)}",
    ),
    "shape_agnostic": (lambda value: isinstance(value, bool), "true or false"),
    "neighbours": _one_of(NEIGHBOURS),
    "isolation": (_is_text, "a text"),
    "token_axes": (_is_axes_by_name, "output names with lists of axes"),
    "cell_bytes": (_is_count, "a whole number of 0 or more"),
    "pair_bytes": (_is_count, "a whole number of 0 or more"),
    "sample_inputs": (_is_names, "a list of names of inputs"),
    "run_inputs": (_is_names, "a list of names of inputs"),
    "pair_inputs": (_is_pairs_by_name, "names of inputs with two axes each, in order"),
    "subsampling": (_is_subsampling, "a window and a stride of 1 or more, and a pad of 0 or more"),
    "packed_flops": (_is_count, "a whole number of 0 or more"),
    "total_flops": (_is_count, "a whole number of 0 or more"),
}
