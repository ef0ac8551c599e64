"""The keywords of the Converter: one table of what each takes, does, and is called on the command line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from os import PathLike
from typing import Any

from passes.errors import RewriteError
from passes.numbers import LARGEST_EXTENT
from passes.packing.opening.pack_args import PackArgs
from poprt.option_kinds import (
    FLAG,
    FLAG_OR_TEXT,
    LIBRARIES,
    NAMES,
    NO_FP8,
    PACK_ARGS,
    PATH,
    PRECISION,
    SHAPES,
    STEPS,
    TEXT_OR_MAPPING,
    Kind,
    whole,
)

#: The pass that packs samples within rows. Asked for by name, and run where ``packed_transformer`` would be.
WITHIN_ROWS_PASS = "insert_attention_mask"

#: The word for True where an option also takes names.
ALL = "all"

_LAYOUT, _SPLITS = "it steers the IPU's memory layout", "it splits MatMuls to fit the IPU's memory"
_FP8 = f"it goes with FP8, and {NO_FP8}; precision int8 measures for itself"


def _option(
    default: Any,
    kind: Kind,
    help: str = "",
    *,
    flag: str = "",
    rewrite: str = "",
    no_effect: str = "",
) -> Any:
    """One line of the table; the parameters are the attributes of :class:`Option`."""
    says = {"kind": kind, "help": help, "flag": flag, "rewrite": rewrite, "no_effect": no_effect}
    return field(default=default, metadata=says)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ConvertKeywords:
    """The table. A field is a keyword of the Converter: its name, type, default, and what :class:`Option` holds.

    The Converter inherits its signature from here, and the command generates its options.
    """

    input_shape: Mapping[str, Sequence[int]] | None = _option(
        None, SHAPES, "Fix variable dimensions of inputs: input_ids=16,256."
    )
    convert_version: int | None = _option(None, whole(1), "Raise an older model to this opset.")
    precision: str | None = _option(
        "fp32",
        PRECISION,
        "Type of floats: inputs, outputs and weights in fp16; weights of products and tables alone in int8.",
    )
    checkpoints: str | Sequence[str] | None = _option(None, NAMES, "Tensors to add as outputs.")
    fp16_skip_op_types: str | Sequence[str] | None = _option(None, NAMES, "Operator types that stay in fp32.")
    skip_passes: str | Sequence[str] | None = _option(None, NAMES, "Passes to leave out.")
    used_passes: str | Sequence[Any] | None = _option(
        None,
        STEPS,
        "Passes to add, in order, after the default ones. insert_attention_mask (packing within rows) runs earlier.",
        flag="--passes",
    )
    check: bool | None = _option(
        False,
        FLAG,
        "Compare the numbers of the original and the converted model, as it is written and as it is served. Where they "
        "differ, nothing is written and the exit status is 1. What is not comparable (extents that depend on values, "
        "random numbers) is a warning.",
    )
    disable_fast_norm: bool | None = _option(False, FLAG, no_effect="LayerNormalization always stays as it is here")
    pack_args: Mapping[str, str | int] | None = _option(
        None, PACK_ARGS, "Pack samples of many lengths: max_valid_num=40 segment_max_size=256."
    )
    fp8_skip_op_names: str | Sequence[str] | None = _option(None, NAMES, no_effect=_FP8)
    fp8_params: str | Sequence[str] | None = _option(None, NAMES, no_effect=_FP8)
    quantize: bool | None = _option(False, FLAG, no_effect=_FP8)
    eightbitsio: bool | None = _option(
        False, FLAG, no_effect="it normalises images on the IPU; an input of uint8 stays uint8 anyway"
    )
    enable_insert_remap: bool | None = _option(False, FLAG, no_effect=_LAYOUT)
    enable_erf_gelu: bool | None = _option(
        False, FLAG, "Make one node of a GELU that is spelled out.", rewrite="erf_gelu_pattern"
    )
    serialize_matmul: Mapping[str, Any] | str | None = _option(None, TEXT_OR_MAPPING, no_effect=_SPLITS)
    serialize_matmul_add: Mapping[str, Any] | str | None = _option(None, TEXT_OR_MAPPING, no_effect=_SPLITS)
    merge_matmul: bool | str | None = _option(
        None,
        FLAG_OR_TEXT,
        "Make one MatMul of those that multiply one tensor by constant matrices: their names, or all.",
        rewrite="merge_matmul",
    )
    merge_matmul_add: bool | str | None = _option(
        None,
        FLAG_OR_TEXT,
        "The same for MatMuls with the Add of a bias behind each: the names of both, or all.",
        rewrite="merge_matmul_add",
    )
    merge_moe: bool | str | None = _option(None, FLAG_OR_TEXT, rewrite="merge_moe")
    remap_mode: str | Sequence[str] | None = _option(None, NAMES, no_effect=_LAYOUT)
    max_tensor_size: int | None = _option(-1, whole(-1, limit=2**63 - 1), "Largest folded constant in bytes.")
    infer_shape_ahead: bool | None = _option(False, FLAG, "Fix and infer shapes before folding constants.")
    enable_avoid_overflow_patterns: bool | None = _option(
        False, FLAG, "With fp16, keep sums, exponentials, squares and attention scores in fp32, too."
    )
    disable_progress_bar: bool | None = _option(
        False, FLAG, "Show no progress, also on a terminal.", flag="--disable_compilation_progress_bar"
    )
    batch_size: int | None = _option(None, whole(1, LARGEST_EXTENT), "Set the batch axis of every input.")
    batch_axis: int | None = _option(None, whole(), "Which axis --batch_size means [default: 0].")
    remove_outputs: str | Sequence[str] | None = _option(None, NAMES, "Outputs to drop, with what only they need.")
    fold_periodic_initializer: bool | None = _option(False, FLAG, rewrite="fold_periodic_initializer")
    enable_compress_pattern: bool | None = _option(False, FLAG, rewrite="compress_pattern")
    merge_if_with_same_cond: bool | None = _option(False, FLAG, rewrite="merge_if_with_same_cond")
    apply_hcsr: bool | str | None = _option(
        None,
        FLAG_OR_TEXT,
        "Join inputs of one type and shape into one, for the host concat runner; of all kinds, or of those listed: "
        "\"[('float32', (512, 1))]\".",
        rewrite="apply_host_concat_split",
    )
    requantize: bool | None = _option(
        False, FLAG, "Where activations share one scale over all samples, give each token its own."
    )
    pack_shared_scales: bool | None = _option(
        False, FLAG, "Pack such a model with the scales it has: an answer then moves with its company."
    )
    skip_isolation_check: bool | None = _option(
        False, FLAG, "Do not try whether packed samples leave each other's answers alone."
    )
    skip_check_load: bool | None = _option(False, FLAG, "Write the model without trying whether onnxruntime loads it.")
    custom_ops: str | PathLike[str] | Sequence[str | PathLike[str]] | None = _option(  # noqa: RUF009  (a field)
        None,
        LIBRARIES,
        "A library of operators that onnxruntime lacks, registered wherever a model is loaded; also the name "
        "onnxruntime_extensions. May be given again.",
    )
    dump_passes: str | PathLike[str] | None = _option(  # noqa: RUF009  (a field)
        None, PATH, "Write the model after each pass that changed it."
    )
    logger: InitVar[logging.Logger | None] = None

    def __post_init__(self, logger: logging.Logger | None) -> None:
        """For the Converter to do what it does with its keywords."""


@dataclass(frozen=True)
class Option:
    """What the table says of one keyword.

    Attributes:
        keyword: its name.
        default: what it is where the caller leaves it out, or gives None or "".
        kind: how a value is checked and brought into one form.
        help: what the command's help says; "" where the command does not have it.
        flag: how the command calls it, where that is not ``--keyword``.
        rewrite: the pass that it asks for; "" where it asks for none.
        no_effect: why it does nothing here, for one that steers an IPU or goes with FP8.
    """

    keyword: str
    default: Any
    kind: Kind
    help: str
    flag: str
    rewrite: str
    no_effect: str

    @property
    def command_flag(self) -> str:
        """How the command calls it."""
        return self.flag or f"--{self.keyword}"

    @property
    def parameter(self) -> str:
        """Its name among the parameters of the command."""
        return self.command_flag.removeprefix("--")


#: The table by keyword.
OPTIONS: dict[str, Option] = {
    item.name: Option(item.name, item.default, **item.metadata) for item in fields(ConvertKeywords)
}


@dataclass(frozen=True)
class ConvertOptions:
    """The keywords that the Converter acts on, checked and in their normal form.

    Attributes:
        input_shape: input name -> extents.
        precision: "fp32", "fp16", "bf16" or "int8".
        skip_passes, used_passes: pass names; ``used_passes`` also takes passes and callables on ModelProto.
        max_tensor_size: bytes; -1 is no limit.
        keyword_passes: passes that single keywords ask for, with the keyword's value, or None where it says no more.
    """

    input_shape: dict[str, list[int]]
    convert_version: int | None
    precision: str
    checkpoints: list[str]
    fp16_skip_op_types: list[str]
    skip_passes: list[str]
    used_passes: list[Any]
    check: bool
    requantize: bool
    pack_shared_scales: bool
    skip_isolation_check: bool
    skip_check_load: bool
    custom_ops: list[str]
    dump_passes: str | None
    pack_args: PackArgs | None
    max_tensor_size: int
    infer_shape_ahead: bool
    enable_avoid_overflow_patterns: bool
    disable_progress_bar: bool
    batch_size: int | None
    batch_axis: int | None
    remove_outputs: list[str]
    keyword_passes: list[tuple[str, Any]]

    @property
    def packs(self) -> bool:
        """Whether samples are packed, in either layout."""
        return bool(self.pack_args) or WITHIN_ROWS_PASS in self.used_passes

    @property
    def lifts_dynamic_int8(self) -> bool:
        """Whether dynamically quantised products are written as floats before packing, and in int8 afterwards."""
        return self.requantize or (self.pack_shared_scales and self.packs)

    @property
    def compared_as(self) -> str:
        """The precision whose tolerance holds against the original."""
        return "int8" if self.lifts_dynamic_int8 else self.precision


def read_options(keywords: ConvertKeywords, logger: logging.Logger) -> ConvertOptions:
    """Check the keywords of a Converter; None and "" mean the default.

    Raises:
        RewriteError: a value has the wrong type, or asks for what this version does not have.
    """
    asked = {name: value for name in OPTIONS if (value := getattr(keywords, name)) is not None and value != ""}
    for name, value in asked.items():
        OPTIONS[name].kind.check(name, value)
    for name in filter(asked.get, asked):
        if OPTIONS[name].no_effect:
            logger.warning("%s has no effect here: %s", name, OPTIONS[name].no_effect)
    packs = asked.get("pack_args") or WITHIN_ROWS_PASS in _steps(asked)
    if asked.get("infer_shape_ahead") and packs:
        raise RewriteError("infer_shape_ahead fixes the axes that packing works on; leave out one of the two")
    if asked.get("requantize") and asked.get("pack_shared_scales"):
        raise RewriteError("requantize leaves no scale that samples share; leave out pack_shared_scales")
    if asked.get("pack_shared_scales") and not packs:
        logger.warning("pack_shared_scales has no effect here: nothing is packed; pack_args asks for it")
    acting = [item.name for item in fields(ConvertOptions) if item.name in OPTIONS]
    values = {name: OPTIONS[name].kind.read(asked.get(name, OPTIONS[name].default)) for name in acting}
    return ConvertOptions(**values, keyword_passes=_keyword_passes(asked))


def not_default(keywords: ConvertKeywords) -> dict[str, Any]:
    """The keywords that ask for something of the model, with their values as they were given. Paths do not."""
    values = {name: getattr(keywords, name) for name, option in OPTIONS.items() if option.kind not in (PATH, LIBRARIES)}
    return {name: value for name, value in values.items() if value and value != OPTIONS[name].default}


def _steps(asked: Mapping[str, Any]) -> list[Any]:
    steps: list[Any] = STEPS.read(asked.get("used_passes"))
    return steps


def _keyword_passes(asked: Mapping[str, Any]) -> list[tuple[str, Any]]:
    steps = []
    for name in filter(asked.get, asked):
        rewrite, value = OPTIONS[name].rewrite, asked[name]
        if rewrite:
            steps.append((rewrite, None if value is True or value == ALL else value))
    return steps
