"""The pack runner: one request is one sample; samples of many callers share a run of the engine."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poprt.engine.protocol import Session
from poprt.errors import InputError, PoprtError, RequestTooLongError
from poprt.executable import Executable, PackingSpec, TensorSpec
from poprt.runtime.across_rows_worker import AcrossRowsWorker
from poprt.runtime.assumed_packing import AssumedPacking, assume_packing, open_extents
from poprt.runtime.assumed_trial import tried
from poprt.runtime.batching import Batcher
from poprt.runtime.buffers import (
    POSITION_IDS,
    Array,
    InputNames,
    as_array,
    check_buffer,
    check_known,
)
from poprt.runtime.company import announce_shared_scales
from poprt.runtime.config import PackRunnerConfig
from poprt.runtime.opening import Opening, open_executable
from poprt.runtime.pack_worker import PackRequest, PackStats, PackWorker
from poprt.runtime.runner import Outputs, Runner, refuse_several
from poprt.runtime.sample_reader import SampleReader
from poprt.runtime.within_rows_worker import RowOptions, WithinRowsWorker

logger = logging.getLogger("poprt")

#: Among how many requests a pack of one length is chosen, at least: of 128 short texts only a few have the same length.
ONE_LENGTH_WINDOW = 1024


class PackRunner(Runner, configured_by=PackRunnerConfig):
    """Packs single-sample requests.

    A request gives each dynamic input as [L] or [1, L], or [L, ...] where a token is an array; each sample input as its
    row, [...] or [1, ...]; and each run input whole. Requests whose run inputs differ share no pack. ``unpack_info`` is
    the runner's business: what a request gives for it is not used, except to split a sample where the executable has
    several segments. A missing position input is filled with 0..L-1. Results are written from the start of the
    request's buffers, the rest of them is set to zero.

    Where the executable says that padding would show in an answer (``PackingSpec.neighbours``), a pack takes samples of
    one length only; where samples of one run would mix, each runs by itself.

    An executable that does not say how it is packed is packed by what ``config`` names and by its shapes
    (:mod:`poprt.runtime.assumed_packing`). A few samples are run then, to see that they leave each other alone.

    Args:
        executable: an ``Executable`` or the path of one.
        config: the options; None takes the defaults.
        options: ``session``, ``threads``, ``providers`` and ``spin_between_runs``, as for ``Runner``.

    Raises:
        PoprtError: an option does not suit the executable, or it is not packed and no option names what to pack.
    """

    def __init__(
        self,
        executable: Executable | str | Path,
        config: PackRunnerConfig | None = None,
        **options: Any,
    ) -> None:
        super().__init__(executable, config, **options)
        self._config = (PackRunnerConfig() if config is None else config).checked()
        refuse_several(self.executable, "PackRunner")
        manifest = self.executable.manifest
        self._config.announce_without_effect()
        announce_shared_scales(manifest)
        self._packing: PackingSpec
        self._assumed: AssumedPacking | None = None
        if manifest.packing is not None:
            self._packing = manifest.packing
        else:
            self._assumed = assume_packing(manifest, self._config)
            self._packing = self._assumed.packing
        if not self._packing.rows * self._packing.columns:
            raise open_extents(self._packing.dynamic_inputs[0])
        self._alike = self._packing.neighbours == "same_length"
        self._any_size = self._packing.ragged or bool(manifest.batch_axes)
        self._inputs = {spec.name: spec for spec in manifest.inputs}
        self._outputs = {spec.name: spec for spec in manifest.outputs}
        self._input_names = InputNames(self._inputs, (POSITION_IDS, "unpack_info"))
        self._check_names()
        self._reader = SampleReader(manifest, self._packing, self._config, self._longest_sample())
        self.lanes, session = self._open(**options)
        if self._assumed is None and self.executable.packing is not None:
            self._packing = self.executable.packing  # what packs cost differs from engine to engine
        self._worker = self._make_worker(session)
        if self._assumed is not None:
            self._worker = tried(self._worker, manifest, self._assumed)
            self._packing = self._worker.packing
        self._batcher = Batcher(
            self._worker,
            timeout=self._config.timeout_seconds(),
            send_when_idle=self._config.send_when_idle,
            limit=self._config.queue_limit,
            token_limit=self._config.queue_tokens,
            window=max(self._config.window, ONE_LENGTH_WINDOW) if self._alike else self._config.window,
            lanes=self.lanes,
            observer=self._config.observer,
        )

    def _open(self, session: Session | None = None, **options: Any) -> tuple[int, Session]:
        """Open the engine where no session is given, and tell how many runs it takes at the same time."""
        config = self._config
        if session is not None:
            return config.lanes or 1, session
        opening = Opening(
            config.engine,
            config.lanes,
            self._any_size,
            custom_ops=config.custom_ops,
            typical_lengths=[int(length) for length in config.typical_lengths],
            **options,
        )
        opened = open_executable(self.executable, opening)
        self.executable = opened.executable
        return opened.lanes.count, opened.session

    @property
    def token_budget(self) -> int:
        """Tokens that a pack aims at: as the options say, or as was found when the runner was made."""
        return self._worker.budget

    def stats(self) -> PackStats:
        """Return what has been run so far: ``packs``, ``samples``, ``tokens``, ``engine_seconds``."""
        return self._worker.stats

    def _check_names(self) -> None:
        """Refuse names that the executable does not have, before any request finds out."""
        packing, config = self._packing, self._config
        named = {"dynamic_input_name": config.dynamic_input_name} if config.dynamic_input_name else {}
        if config.single_row_mode is not None:
            named["enable_input_single_row_mode: mask_name"] = config.single_row_mode.mask_name
        if config.padding_remove_mode is not None:
            named["enable_padding_remove_mode: mask_name"] = config.padding_remove_mode.mask_name
            padded = [name for name in config.padding_remove_mode.inputs if name not in packing.pair_inputs]
            named.update({f"enable_padding_remove_mode: {n}": n for n in padded})
        for option, name in named.items():
            if name not in packing.dynamic_inputs:
                dynamic = ", ".join(packing.dynamic_inputs)
                raise PoprtError(f"{option}: {name!r} is not a dynamic input of the executable, which has {dynamic}")
        mode = config.single_row_mode
        if mode is not None and packing.unpack_info and mode.unpack_info_name not in ("", packing.unpack_info):
            option, name = "enable_input_single_row_mode: unpack_info_name", mode.unpack_info_name
            raise PoprtError(f"{option}: {name!r} is not the input of the lengths, which is {packing.unpack_info!r}")
        of_samples = (*packing.sample_inputs, *packing.pair_inputs)
        fed = {*packing.dynamic_inputs, *of_samples, *packing.run_inputs, packing.unpack_info}
        others = [name for name in self._inputs if name not in fed]
        if others:
            raise PoprtError(f"a pack runner cannot feed {others[0]!r}: it is the same for no two samples of a pack")

    def _longest_sample(self) -> int:
        if self._packing.rows_apart:
            return self._packing.columns
        if self._packing.within_rows:
            return min(self._packing.width, self._packing.columns)
        return min(sum(self._packing.segment_max_size), self._packing.rows * self._packing.columns)

    def _make_worker(self, session: Session) -> PackWorker:
        packing, config, manifest = self._packing, self._config, self.executable.manifest
        limits = [n for n in (config.max_valid_num, packing.max_valid_num) if n > 0]
        count = min(limits, default=packing.rows * packing.columns)
        if config.max_valid_num > count:
            logger.warning("max_valid_num=%d: the executable holds at most %d samples", config.max_valid_num, count)
        if packing.neighbours == "none":
            count = 1
        mode = config.single_row_mode
        if not packing.within_rows:
            if mode is not None:
                logger.warning("enable_input_single_row_mode has no effect: in this executable samples may cross rows")
            return AcrossRowsWorker(session, manifest, packing, count, config, self.lanes)
        if config.latency_target is not None:
            logger.warning("latency_target has no effect: every run of this executable takes the same time")
        delimiter = 0 if mode is None else mode.delimiter_num
        mask = packing.mask if mode is None else mode.mask_name
        rows = RowOptions(mask, config.algorithm, delimiter, signed=self._assumed is None)
        return WithinRowsWorker(session, manifest, packing, count, rows)

    def _request(self, inputs: Mapping[str, Array], outputs: Outputs) -> PackRequest:
        packing = self._packing
        self._input_names.check(inputs)
        check_known("output", outputs, self._outputs)
        arrays = self._reader.tokens(inputs)
        length = len(next(iter(arrays.values())))
        lengths = self._split(length, inputs.get(packing.unpack_info))
        buffers = {name: self._buffer(self._outputs[name], value, lengths) for name, value in outputs.items()}
        masked = packing.equal_lengths_cheaper and packing.mask in arrays and bool((arrays[packing.mask] != 1).any())
        return PackRequest(
            [arrays[name] for name in packing.dynamic_inputs],
            lengths,
            buffers,
            self._alike,
            masked,
            sample_rows=self._reader.sample_rows(inputs),
            pairs=self._reader.pairs(inputs, length),
            run_values=self._reader.run_values(inputs),
        )

    def _split(self, length: int, unpack_info: Array | None) -> tuple[int, ...]:
        """Return the sample's tokens by segment: as the caller says, else the first segments are filled first."""
        sizes = self._packing.segment_max_size
        if self._packing.within_rows or len(sizes) == 1:
            return (length,)
        asked = () if unpack_info is None else self._asked(unpack_info)
        if len(asked) == len(sizes) and sum(asked) == length and min(asked) >= 0:
            for segment, (count, size) in enumerate(zip(asked, sizes, strict=True)):
                if count > size:
                    raise RequestTooLongError(f"segment {segment} has {count} tokens, at most {size} fit")
            return asked
        filled: list[int] = []
        for size in sizes:
            filled.append(min(size, length - sum(filled)))
        return tuple(filled)

    def _asked(self, unpack_info: Array) -> tuple[int, ...]:
        name = self._packing.unpack_info
        array = as_array(name, unpack_info)
        if array.dtype.kind not in "iu":
            raise InputError(f"input {name!r}: expected whole numbers, the tokens of each segment, got {array.dtype}")
        return tuple(map(int, array.reshape(-1)[: len(self._packing.segment_max_size)]))

    def _buffer(self, spec: TensorSpec, value: Array, lengths: tuple[int, ...]) -> Array:
        """Check an output buffer; raise InputError if the sample's result does not fit."""
        buffer = check_buffer(spec.name, value)
        if self._packing.outputs[spec.name] == "sample":
            grown = self._packing.token_axes.get(spec.name, ())
            own = buffer.ndim == len(spec.shape) - 1 and len(lengths) == 1  # room for what is the sample's own will do
            places = self._packing.places(sum(lengths))
            need = [places if own and axis in grown else n for axis, n in enumerate(spec.shape)][1:]
        else:
            sizes = self._packing.segment_max_size
            last = max(k for k, count in enumerate(lengths) if count)
            need = [self._packing.places(sum(sizes[:last]) + lengths[last]), *spec.shape[2:]]
        if buffer.size < math.prod(need):
            raise InputError(f"output {spec.name!r}: expected room for shape {need}, got {list(buffer.shape)}")
        return buffer
