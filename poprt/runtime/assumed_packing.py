"""How an executable is packed that does not say so: by what the options of the pack runner name, and by its shapes.

A script may write AttentionMask and Unpack into a model by hand, or pack a model that holds neither. The options name
the inputs; the executable tells which operators of packing its graph has (:class:`poprt.manifest.PackOperators`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from poprt.errors import PoprtError
from poprt.manifest import Manifest, PackingSpec, PackOperators, TensorSpec
from poprt.runtime.buffers import POSITION_IDS
from poprt.runtime.config import PackRunnerConfig, PaddingRemoveMode
from poprt_format.packing import ACROSS_ROWS, WITHIN_ROWS

logger = logging.getLogger("poprt")

_MASK, _LENGTHS = "attention_mask", "unpack_info"
_NO_OPERATORS = PackOperators(False, (), (), 0, (), ())


@dataclass(frozen=True)
class AssumedPacking:
    """How an executable is taken to be packed.

    Attributes:
        packing: in the words of an executable that says it.
        shares_rows: within rows, whether several samples may have a row. Where nothing keeps them apart, none may.
    """

    packing: PackingSpec
    shares_rows: bool


def assume_packing(manifest: Manifest, config: PackRunnerConfig) -> AssumedPacking:
    """Read off the options and the shapes how the executable is packed.

    Example: ids [8, 16] and mask [8, 16], lengths [20, 1], a mode for single rows, and an output [20, 2] behind an
    Unpack: 20 samples share 8 rows of 16, and each has its row of the output.

    Raises:
        PoprtError: the options name no input of tokens, or something that does not fit the executable.
    """
    return _Reader(manifest, config).read()


def open_extents(name: str) -> PoprtError:
    """The error of an executable whose input of tokens leaves open how many there are."""
    return PoprtError(
        f"input {name!r} has open extents, so nobody knows how many tokens a pack holds: convert the model with "
        "input_shape (--input_shape), [rows, columns] of a pack"
    )


def _names(padding: PaddingRemoveMode | None) -> tuple[str, ...]:
    return (padding.mask_name, *padding.inputs) if padding is not None else ()


class _Reader:
    def __init__(self, manifest: Manifest, config: PackRunnerConfig) -> None:
        self._inputs = {spec.name: spec for spec in manifest.inputs}
        self._outputs = manifest.outputs
        self._config = config
        self._operators = manifest.pack_operators or _NO_OPERATORS
        self._hand_written = manifest.pack_operators is not None
        self._lengths = self._lengths_input()
        self._leader = self._leading_input()
        self._rows, self._columns = self._leader.shape[:2]

    def read(self) -> AssumedPacking:
        """See :func:`assume_packing`."""
        mode, operators = self._config.single_row_mode, self._operators
        dynamic = self._dynamic_inputs()
        within = operators.apart_in_rows or mode is not None or self._lengths is None
        count = self._lengths.shape[0] if self._lengths is not None else self._rows * self._columns
        sizes = self._sizes(within)
        outputs, pooled = self._output_kinds(within, count, sum(sizes))
        shares = (operators.apart_in_rows or mode is not None) and not pooled
        if pooled and (operators.apart_in_rows or mode is not None):
            logger.warning(
                "output %r has one row for each row of a pack, so a row takes one sample; an Unpack before it would "
                "give each sample its own",
                pooled,
            )
        packing = PackingSpec(
            layout=WITHIN_ROWS if within else ACROSS_ROWS,
            rows=self._rows,
            columns=self._columns,
            max_valid_num=count,
            segment_max_size=sizes,
            unpack_info=self._lengths.name if self._lengths is not None else "",
            dynamic_inputs=dynamic,
            mask=self._mask(dynamic, shares),
            position_ids=POSITION_IDS if POSITION_IDS in dynamic else "",
            outputs=outputs,
            sample_inputs=self._sample_inputs(dynamic, count),
            ragged=False,
        )
        return AssumedPacking(packing, shares)

    def _input(self, option: str, name: str) -> TensorSpec:
        if name not in self._inputs:
            raise PoprtError(f"{option}: {name!r} is no input of the executable, which has {', '.join(self._inputs)}")
        return self._inputs[name]

    def _lengths_input(self) -> TensorSpec | None:
        """The input [max_valid_num, segments] that Unpack reads; None where there is none."""
        mode, read = self._config.single_row_mode, self._operators.lengths
        if mode is not None and mode.unpack_info_name:
            option, name = "enable_input_single_row_mode: unpack_info_name", mode.unpack_info_name
            if read and name not in read:
                raise PoprtError(f"{option}: {name!r} is not what Unpack reads, which is {read[0]!r}")
        elif len(read) > 1:
            raise PoprtError(f"the executable unpacks by several inputs, {', '.join(read)}; a pack runner feeds one")
        else:
            option, name = "unpack_info", read[0] if read else _LENGTHS
            if name not in self._inputs:
                return None
        spec = self._input(option, name)
        if len(spec.shape) != 2 or np.dtype(spec.dtype).kind not in "iu" or 0 in spec.shape:
            raise PoprtError(
                f"{option}: {name!r} is {spec.dtype} {list(spec.shape)}; expected whole numbers of shape "
                "[max_valid_num, segments], the lengths of the samples"
            )
        return spec

    def _leading_input(self) -> TensorSpec:
        """The input whose first two extents are the rows and columns of a pack."""
        mode = self._config.single_row_mode or self._config.padding_remove_mode
        if self._config.dynamic_input_name:
            option, name = "dynamic_input_name", self._config.dynamic_input_name
        elif mode is not None:
            option, name = "mask_name", mode.mask_name
        elif self._hand_written:
            others = [name for name in self._inputs if self._lengths is None or name != self._lengths.name]
            option, name = "inputs", others[0] if others else ""
        else:
            raise PoprtError(
                "the executable is not packed, and the options do not say what to pack: convert the model with "
                "pack_args; or set dynamic_input_name, the input whose length is the sample's; or use a RuntimeConfig"
            )
        spec = self._input(option, name)
        if len(spec.shape) < 2:
            raise PoprtError(
                f"{option}: {name!r} has the shape {list(spec.shape)}; expected [rows, columns] of tokens, or more "
                "extents behind them"
            )
        if 0 in spec.shape[:2]:
            raise open_extents(name)
        return spec

    def _dynamic_inputs(self) -> tuple[str, ...]:
        """The inputs of tokens, [R, C, ...]; raise PoprtError for an option that names another."""
        lead = (self._rows, self._columns)
        dynamic = tuple(
            name for name, spec in self._inputs.items() if spec.shape[:2] == lead and spec is not self._lengths
        )
        padding = self._config.padding_remove_mode
        named = [("enable_padding_remove_mode", name) for name in _names(padding)]
        if self._config.single_row_mode is not None:
            named.append(("enable_input_single_row_mode: mask_name", self._config.single_row_mode.mask_name))
        for option, name in named:
            shape = self._input(option, name).shape
            if name not in dynamic:
                raise PoprtError(
                    f"{option}: {name!r} has the shape {list(shape)}; expected {list(lead)} first, the rows and "
                    f"columns of {self._leader.name!r}"
                )
        return dynamic

    def _sample_inputs(self, dynamic: Sequence[str], count: int) -> tuple[str, ...]:
        """The inputs with a row a sample; raise PoprtError for one that is neither of tokens nor of samples."""
        names = [name for name in self._inputs if name not in dynamic and self._inputs[name] is not self._lengths]
        for name in names:
            shape = self._inputs[name].shape
            if self._lengths is None or shape[:1] != (count,):
                raise PoprtError(
                    f"a pack runner cannot feed {name!r} {list(shape)}: it has not the rows and columns of "
                    f"{self._leader.name!r}, {list(self._leader.shape[:2])}"
                )
        return tuple(names)

    def _mask(self, dynamic: Sequence[str], shares: bool) -> str:
        """The input that numbers the samples of a row, or marks the tokens; "" where there is none."""
        mode, read = self._config.single_row_mode, self._operators.masks
        if mode is not None and read and mode.mask_name not in read:
            raise PoprtError(
                f"enable_input_single_row_mode: mask_name: {mode.mask_name!r} does not number the samples of a row; "
                f"AttentionMask reads {read[0]!r}"
            )
        if mode is not None:
            return mode.mask_name
        padding = self._config.padding_remove_mode
        asked = [padding.mask_name] if padding is not None else []
        name = next((name for name in (*read, *asked, _MASK) if name in dynamic), "")
        if shares and not name:
            raise PoprtError(
                "AttentionMask reads no input as it is, so nothing says which input numbers the samples of a row: call "
                "enable_input_single_row_mode(mask_name)"
            )
        return name

    def _sizes(self, within: bool) -> tuple[int, ...]:
        """The longest sample, by segment."""
        sizes = self._operators.segment_max_size or (self._columns,)
        segments = self._lengths.shape[1] if self._lengths is not None else 1
        if len(sizes) != segments or (within and segments != 1):
            raise PoprtError(
                f"input {self._lengths.name if self._lengths else ''!r} holds {segments} lengths a sample; expected "
                f"{1 if within else len(sizes)}"
            )
        if within and sum(sizes) < self._columns and self._lengths is not None:
            raise PoprtError(
                f"Unpack takes samples of {sum(sizes)} tokens and a row has {self._columns}: the distance to the next "
                f"sample of a row may be longer; give Unpack segment_max_size=[{self._columns}]"
            )
        return sizes

    def _output_kinds(self, within: bool, count: int, width: int) -> tuple[dict[str, str], str]:
        """What each output holds, and the first that has a row for each row of a pack ("" where none has)."""
        kinds, pooled = {}, ""
        for spec in self._outputs:
            if self._is_unpacked(spec, count):
                kinds[spec.name] = "tokens" if spec.shape[1:2] == (width,) else "sample"
            elif not within:
                raise PoprtError(
                    f"output {spec.name!r} {list(spec.shape)} keeps the rows of the pack, and samples cross them: let "
                    "it end in an Unpack, or compile the model without it"
                )
            elif spec.shape[:2] == (self._rows, self._columns):
                kinds[spec.name] = "packed"
            elif spec.shape[:1] == (self._rows,) and self._lengths is None:
                kinds[spec.name], pooled = "sample", pooled or spec.name
            else:
                raise PoprtError(
                    f"output {spec.name!r} has the shape {list(spec.shape)}: nothing in it belongs to a sample, as "
                    f"{[self._rows, self._columns]} first would say, or {[self._rows]}"
                )
        return kinds, pooled

    def _is_unpacked(self, spec: TensorSpec, count: int) -> bool:
        if self._lengths is None:
            return False
        if self._hand_written:
            return spec.name in self._operators.unpacked
        return spec.shape[:1] == (count,) and spec.shape[:2] != (self._rows, self._columns)
