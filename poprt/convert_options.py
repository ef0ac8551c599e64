"""The keywords of the Converter: what type each has, which of them act, and which are accepted without effect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike, fspath
from typing import Any

from passes import get_registered_passes
from passes.cleanup.graph_outputs import split_names
from passes.errors import RewriteError
from passes.numbers import LARGEST_EXTENT

#: Keywords that steer only the IPU: checked, announced, without effect here. The value is what the caller is told.
IPU_ONLY = {
    "disable_fast_norm": "LayerNormalization always stays as it is here",
    "enable_insert_remap": "it steers the IPU's memory layout",
    "remap_mode": "it steers the IPU's memory layout",
    "serialize_matmul": "it splits MatMuls to fit the IPU's memory",
    "serialize_matmul_add": "it splits MatMuls to fit the IPU's memory",
}

#: Passes that mean something on an IPU alone; asking for one is announced.
IPU_ONLY_PASSES = frozenset(
    {
        "auto_insert_remap",
        "manual_sharding",
        "overlap_io",
        "replace_erf_with_erfv2",
        "replace_groupnorm_with_fast_norm",
        "replace_isinf",
        "replace_round",
        "replace_softmax",
        "replace_where_with_wherev2",
        "serialize_matmul",
        "serialize_matmul_add",
        *(f"{name}_workaround" for name in ("batchnorm", "cumsum", "float_ops", "indices", "onehot", "topk")),
    }
)

#: Keywords that ask for one rewrite, and the pass that does it.
PASS_OF_KEYWORD = {
    "enable_erf_gelu": "erf_gelu_pattern",
    "merge_matmul": "merge_matmul",
    "merge_matmul_add": "merge_matmul_add",
    "merge_moe": "merge_moe",
    "merge_if_with_same_cond": "merge_if_with_same_cond",
    "enable_compress_pattern": "compress_pattern",
    "fold_periodic_initializer": "fold_periodic_initializer",
    "apply_hcsr": "apply_host_concat_split",
}

#: The pass that packs samples within rows. Asked for by name, and run where ``packed_transformer`` would be.
ROW_PACKING = "insert_attention_mask"

#: Keywords of the 8-bit family, which is not built yet.
EIGHT_BIT = ("quantize", "fp8_params", "fp8_skip_op_names")


@dataclass(frozen=True)
class ConvertOptions:
    """The Converter's keywords, checked and in one form.

    Attributes:
        input_shape: input name -> extents.
        precision: "fp32", "fp16" or "int8".
        skip_passes, used_passes: pass names; ``used_passes`` also takes passes and callables on ModelProto.
        max_tensor_size: bytes; -1 is no limit.
        keyword_passes: passes that single keywords ask for, with the keyword's value where it has one.
    """

    input_shape: dict[str, list[int]] = field(default_factory=dict)
    convert_version: int | None = None
    precision: str = "fp32"
    checkpoints: list[str] = field(default_factory=list)
    fp16_skip_op_types: list[str] = field(default_factory=list)
    skip_passes: list[str] = field(default_factory=list)
    used_passes: list[Any] = field(default_factory=list)
    check: bool = False
    skip_isolation_check: bool = False
    dump_passes: str = ""
    pack_args: dict[str, str | int] = field(default_factory=dict)
    max_tensor_size: int = -1
    infer_shape_ahead: bool = False
    enable_avoid_overflow_patterns: bool = False
    disable_progress_bar: bool = False
    batch_size: int | None = None
    batch_axis: int | None = None
    remove_outputs: list[str] = field(default_factory=list)
    keyword_passes: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def packs(self) -> bool:
        """Whether samples are packed, in either style."""
        return bool(self.pack_args) or ROW_PACKING in self.used_passes


def read_options(given: Mapping[str, Any], logger: logging.Logger) -> ConvertOptions:
    """Check the keywords of a Converter; None and "" mean the default.

    Raises:
        RewriteError: a value has the wrong type, or asks for what this version does not have.
    """
    asked = {name: value for name, value in given.items() if value is not None and value != ""}
    for name, value in asked.items():
        _CHECKS[name](name, value)
    for name in EIGHT_BIT:
        if asked.get(name):
            raise RewriteError(f"{name} is not available in this version; leave it out, or use precision fp16")
    for name, why in IPU_ONLY.items():
        if asked.get(name):
            logger.warning("%s has no effect here: %s", name, why)
    acting = {item.name for item in fields(ConvertOptions)}
    values = {name: _NORMAL.get(name, _same)(value) for name, value in asked.items() if name in acting}
    options = ConvertOptions(**values, keyword_passes=_keyword_passes(asked))
    if options.infer_shape_ahead and options.packs:
        raise RewriteError("infer_shape_ahead fixes the axes that packing works on; leave out one of the two")
    return options


def _keyword_passes(asked: Mapping[str, Any]) -> list[tuple[str, Any]]:
    wanted = []
    for keyword, name in PASS_OF_KEYWORD.items():
        if not asked.get(keyword):
            continue
        if name not in get_registered_passes():
            raise RewriteError(f"{keyword} (pass {name!r}) is not available in this version; leave it out")
        wanted.append((name, None if asked[keyword] is True else asked[keyword]))
    return wanted


def _same(value: Any) -> Any:
    return value


def _wrong(name: str, value: Any, expected: str) -> RewriteError:
    return RewriteError(f"{name} must be {expected}, not {value!r}")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")


def _whole(least: int = -LARGEST_EXTENT, most: int = LARGEST_EXTENT) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _wrong(name, value, f"a whole number of at least {least} and at most {most}")

    return check


def _names(name: str, value: Any) -> None:
    if not isinstance(value, (str, list, tuple)) or not all(isinstance(part, str) for part in value):
        raise _wrong(name, value, "names, as a list or a comma-separated string")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")


def _path(name: str, value: Any) -> None:
    if not isinstance(value, (str, PathLike)):
        raise _wrong(name, value, "a path")


def _steps(name: str, value: Any) -> None:
    good = isinstance(value, (str, list, tuple)) and all(isinstance(part, str) or callable(part) for part in value)
    if not good:
        raise _wrong(name, value, "pass names or passes, as a list or a comma-separated string")


def _mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong(name, value, "a dict with string keys")


def _text_or_mapping(name: str, value: Any) -> None:
    if not isinstance(value, str):
        _mapping(name, value)


def _flag_or_text(name: str, value: Any) -> None:
    if not isinstance(value, (bool, str)):
        raise _wrong(name, value, "True, False or a string")


def _shapes(name: str, value: Any) -> None:
    _mapping(name, value)
    for tensor, shape in value.items():
        listed = isinstance(shape, Sequence) and not isinstance(shape, (str, bytes))
        if not listed or not all(_is_extent(extent) for extent in shape):
            raise _wrong(f"{name} of {tensor!r}", shape, f"a list of positive whole numbers up to {LARGEST_EXTENT}")


def _is_extent(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_EXTENT


def _precision(name: str, value: Any) -> None:
    if value in ("fp8", "fp8_weight"):
        raise RewriteError(f"precision {value!r} is not available in this version; use fp32, fp16 or int8")
    if value not in ("fp32", "fp16", "int8"):
        raise _wrong(name, value, "fp32, fp16 or int8")


def _anything(name: str, value: Any) -> None:
    """For values that need no check."""


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "input_shape": _shapes,
    "convert_version": _whole(1),
    "precision": _precision,
    "checkpoints": _names,
    "fp16_skip_op_types": _names,
    "skip_passes": _names,
    "used_passes": _steps,
    "check": _flag,
    "skip_isolation_check": _flag,
    "dump_passes": _path,
    "disable_fast_norm": _flag,
    "pack_args": _mapping,
    "fp8_skip_op_names": _names,
    "fp8_params": _names,
    "quantize": _flag,
    "enable_insert_remap": _flag,
    "enable_erf_gelu": _flag,
    "serialize_matmul": _text_or_mapping,
    "serialize_matmul_add": _text_or_mapping,
    "merge_matmul": _flag_or_text,
    "merge_matmul_add": _flag_or_text,
    "merge_moe": _flag_or_text,
    "remap_mode": _text,
    "max_tensor_size": _whole(-1, 2**63 - 1),
    "infer_shape_ahead": _flag,
    "enable_avoid_overflow_patterns": _flag,
    "disable_progress_bar": _flag,
    "batch_size": _whole(1),
    "batch_axis": _whole(),
    "remove_outputs": _names,
    "fold_periodic_initializer": _flag,
    "enable_compress_pattern": _flag,
    "merge_if_with_same_cond": _flag,
    "apply_hcsr": _flag_or_text,
    "logger": _anything,
}

_NORMAL: dict[str, Callable[[Any], Any]] = {
    "input_shape": lambda shapes: {name: list(shape) for name, shape in shapes.items()},
    "checkpoints": split_names,
    "fp16_skip_op_types": split_names,
    "skip_passes": split_names,
    "remove_outputs": split_names,
    "used_passes": lambda steps: split_names(steps) if isinstance(steps, str) else list(steps),
    "pack_args": dict,
    "dump_passes": fspath,
}
