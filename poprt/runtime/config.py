"""Options of the runners. A name that no option has is a warning with the nearest one, never a failure."""

from __future__ import annotations

import datetime
import difflib
import enum
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from poprt.engine.choice import check_engine
from poprt.errors import PoprtError
from poprt.runtime.checks import (
    check_callable,
    check_flag,
    check_int,
    check_lengths,
    check_libraries,
    check_seconds,
    check_text,
)
from poprt.runtime.observation import Observer

logger = logging.getLogger("poprt")

#: Bytes of padded tensors that the packs of one lane take unasked.
LANE_BYTES = 128 << 20


class PackAlgorithm(enum.Enum):
    """How a row is chosen for the next sample when samples share rows.

    ``first_fit`` scans the rows from the first; ``next_fit`` goes on from the row of the sample before.
    """

    first_fit = "first_fit"
    next_fit = "next_fit"


class WatchedOptions:
    """Warns about attributes that are not options, and tells which options have no effect on this engine."""

    no_effect: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        options = [f.name for f in fields(self)]  # type: ignore[arg-type]
        if name not in options:
            near = difflib.get_close_matches(name, options, n=1, cutoff=0.0)
            logger.warning("%s has no option %r: it is ignored. Did you mean %r?", type(self).__name__, name, near[0])
        object.__setattr__(self, name, value)

    def announce_without_effect(self) -> None:
        """Log, once for a runner, the options that were changed and that only steer the IPU."""
        default = type(self)()
        changed = [n for n in sorted(self.no_effect) if getattr(self, n) != getattr(default, n)]
        if changed:
            logger.warning("%s: no effect on this engine: %s", type(self).__name__, ", ".join(changed))


@dataclass
class RuntimeConfig(WatchedOptions):
    """Options of a model runner.

    Attributes:
        timeout_ns: the longest that a request waits for others to share its batch, as nanoseconds or a ``timedelta``.
        batching_dim: axis of dynamic batch size; None is off: requests have the declared shapes.
        validate_io_params: check types against the declared ones; off, values are cast whatever their type.
        ring_buffer_size_multiplier: scales the bound of the request queue (1024 requests each).
        send_when_idle: send what is there whenever the engine is free; off, wait for company up to ``timeout_ns``.
        check_package_hash: compare the digests of an executable that is read from a file.
        custom_ops: libraries of operators that onnxruntime lacks, for the session that the runner opens: paths, or
            "onnxruntime_extensions". No executable has a library loaded by itself.
        engine: "onnxruntime", "openvino", or "auto" for the one that is the faster here, which is measured as the
            runner is made. None takes what the executable was compiled for.
        queue_tokens: how many rows may wait, as for ``PackRunnerConfig``; None for no limit.
        observer: is told of each batch, as for ``PackRunnerConfig``.

    The remaining options steer an IPU. They are accepted and announced as having no effect.
    """

    timeout_ns: int | datetime.timedelta = 0
    batching_dim: int | None = None
    validate_io_params: bool = True
    ring_buffer_size_multiplier: int = 4
    send_when_idle: bool = True
    check_package_hash: bool = True
    auto_reset: bool = False
    thread_safe: bool = True
    device_wait_config: Any = None
    replica_to_device: Any = None
    request_tracepoints: bool = True
    request_tracepoints_buffer_size: int = 1000
    flush_on_waiting_outputs: bool = False
    flush_by_name: Any = None
    is_batch_size_timeout_enabled: bool = False
    batch_size_timeout_ns: int | datetime.timedelta = 0
    data_parallel_timeout_ns: int | datetime.timedelta = 0
    runner_type: Any = None
    custom_ops: Sequence[str | os.PathLike[str]] = ()
    engine: str | None = None
    queue_tokens: int | None = None
    observer: Observer | None = field(default=None, repr=False)

    no_effect: ClassVar[frozenset[str]] = frozenset(
        {
            "auto_reset",
            "thread_safe",
            "device_wait_config",
            "replica_to_device",
            "request_tracepoints",
            "request_tracepoints_buffer_size",
            "flush_on_waiting_outputs",
            "flush_by_name",
            "runner_type",
            "is_batch_size_timeout_enabled",
            "batch_size_timeout_ns",
            "data_parallel_timeout_ns",
        }
    )

    def timeout_seconds(self) -> float:
        """Return ``timeout_ns`` in seconds; raise PoprtError if it is negative or no duration."""
        return self._seconds("timeout_ns")

    def _seconds(self, name: str) -> float:
        return check_seconds(name, getattr(self, name), 1e-9, "an int of nanoseconds or a timedelta")

    def queue_limit(self) -> int:
        """Return how many requests may wait; raise PoprtError if the multiplier is not positive."""
        return 1024 * check_int("ring_buffer_size_multiplier", self.ring_buffer_size_multiplier, 1)

    def checked(self) -> RuntimeConfig:
        """Return self; raise PoprtError naming the first option that is of a wrong type or out of range."""
        for option in fields(self):
            name, default = option.name, option.default
            if name.endswith("timeout_ns"):
                self._seconds(name)
            elif isinstance(default, bool):
                check_flag(name, getattr(self, name))
        if self.batching_dim is not None:
            check_int("batching_dim", self.batching_dim, 0)
        check_libraries("custom_ops", self.custom_ops)
        if self.engine is not None:
            check_engine("engine", self.engine)
        self.queue_limit()
        _check_queue(self)
        return self


@dataclass(frozen=True)
class SingleRowMode:
    """Samples share a row and never cross one; see ``PackRunnerConfig.enable_input_single_row_mode``."""

    mask_name: str
    unpack_info_name: str = ""
    delimiter_num: int = 0


@dataclass(frozen=True)
class PaddingRemoveMode:
    """Requests come padded; see ``PackRunnerConfig.enable_padding_remove_mode``."""

    mask_name: str
    inputs: tuple[str, ...] = ()


@dataclass
class PackRunnerConfig(WatchedOptions):
    """Options of a pack runner.

    Attributes:
        timeout_microseconds: the longest that a request waits for others to share its pack.
        max_valid_num: most samples in one pack; 0 takes the executable's.
        dynamic_input_name: the input whose length is the sample's; "" takes the executable's first dynamic input.
        algorithm: how rows are filled when samples share rows and never cross one.
        token_budget: tokens that a pack aims at when the engine takes any number of them; 0 aims at the declared
            capacity. Small packs keep a CPU as busy as large ones and answer sooner. None finds the number when the
            runner is made. What packs cost is measured then in any case, by running a few for up to about 1.5 seconds:
            short samples do not ride with long ones, where padding would cost more than a pack of their own.
        latency_target: seconds, or a ``timedelta``, that an answer should take while there are lanes to spare. No pack
            of several samples is made that takes longer than half of it, for a request may arrive when one begins.
            None sets no bound. It has no effect where the engine takes a fixed number of tokens.
        max_pack_bytes: bytes that packs which run at the same time may hold together in tensors that are padded to
            the longest sample of a pack, attention scores above all; 0 for no limit, None for 128 MiB a lane. A sample
            that is beyond it by itself runs alone. Weights and the packed side are not counted.
        window: among how many of the first requests a pack is chosen; those of similar length go together. A pack
            whose samples must be of one length is chosen among 1024 or more.
        lanes: packs that run at the same time. A pack that runs alone has all cores, several share them. None takes a
            lane a core, up to 16, where the engine is a CPU and takes any number of tokens, and 1 elsewhere.
        queue_limit: how many requests may wait. While the queue is full, ``execute_async`` blocks and ``submit``
            refuses.
        queue_tokens: how many tokens may wait, likewise; None for no limit. A sample alone is always let into an empty
            queue.
        send_when_idle: send what is there whenever the engine is free; off, wait for company up to the timeout.
        custom_ops, engine: as for ``RuntimeConfig``.
        typical_lengths: tokens of samples as they come in use, say of a hundred. Where the runner chooses the engine,
            it times each on packs of such samples; empty takes queries and passages.
        observer: a function that is called with a ``PackObservation`` for each pack that has run, by the thread of its
            lane, when the answers are out. The lane's next pack waits for it. What it raises is logged once. The
            runner's threads keep it alive until they end.
        single_row_mode, padding_remove_mode: set by the methods below.

    ``device_wait_config`` steers an IPU: it is accepted and announced as having no effect.
    """

    timeout_microseconds: int = 0
    max_valid_num: int = 0
    dynamic_input_name: str = ""
    algorithm: PackAlgorithm = PackAlgorithm.next_fit
    token_budget: int | None = None
    latency_target: float | datetime.timedelta | None = None
    max_pack_bytes: int | None = None
    window: int = 128
    lanes: int | None = None
    queue_limit: int = 4096
    queue_tokens: int | None = None
    send_when_idle: bool = True
    device_wait_config: Any = None
    single_row_mode: SingleRowMode | None = field(default=None, repr=False)
    padding_remove_mode: PaddingRemoveMode | None = field(default=None, repr=False)
    custom_ops: Sequence[str | os.PathLike[str]] = ()
    engine: str | None = None
    typical_lengths: Sequence[int] = ()
    observer: Observer | None = field(default=None, repr=False)

    no_effect: ClassVar[frozenset[str]] = frozenset({"device_wait_config"})

    def enable_input_single_row_mode(self, mask_name: str, unpack_info_name: str = "", delimiter_num: int = 0) -> None:
        """Let samples share rows and never cross one (graphs with AttentionMask).

        Args:
            mask_name: the input that numbers the samples of a row.
            unpack_info_name: the input with the distances between sample starts, where the graph ends in an Unpack.
            delimiter_num: zeros between two samples of a row.

        Raises:
            PoprtError: ``delimiter_num`` is negative or no whole number, or a name is no string.
        """
        check_text("mask_name", mask_name)
        check_text("unpack_info_name", unpack_info_name)
        self.single_row_mode = SingleRowMode(mask_name, unpack_info_name, check_int("delimiter_num", delimiter_num, 0))

    def enable_padding_remove_mode(self, mask_name: str, inputs: Sequence[str] = ()) -> None:
        """Take requests that are padded at the end: tokens after the last non-zero of ``mask_name`` are dropped.

        Args:
            mask_name: the mask input; non-zero where there is a token.
            inputs: the other dynamic inputs, and inputs of pairs of tokens, that come padded.

        Raises:
            PoprtError: a name is no string, or ``inputs`` is one name and no list of them.
        """
        check_text("mask_name", mask_name)
        if isinstance(inputs, str) or not isinstance(inputs, Iterable):
            raise PoprtError(f"inputs: expected a list of names, got {inputs!r}")
        for name in inputs:
            check_text("inputs", name)
        self.padding_remove_mode = PaddingRemoveMode(mask_name, tuple(inputs))

    def checked(self) -> PackRunnerConfig:
        """Return self; raise PoprtError naming the first option that is of a wrong type or out of range."""
        self.timeout_seconds()
        check_int("max_valid_num", self.max_valid_num, 0)
        check_text("dynamic_input_name", self.dynamic_input_name)
        if not isinstance(self.algorithm, PackAlgorithm):
            raise PoprtError(f"algorithm: expected PackAlgorithm.first_fit or .next_fit, got {self.algorithm!r}")
        for name, least in (("token_budget", 0), ("lanes", 1)):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), least)
        for name in ("window", "queue_limit"):
            check_int(name, getattr(self, name), 1)
        self.pack_bytes(1)
        self._check_target()
        check_flag("send_when_idle", self.send_when_idle)
        check_libraries("custom_ops", self.custom_ops)
        if self.engine is not None:
            check_engine("engine", self.engine)
        check_lengths("typical_lengths", self.typical_lengths)
        _check_queue(self)
        self._check_modes()
        return self

    def timeout_seconds(self) -> float:
        """Return ``timeout_microseconds`` in seconds; raise PoprtError if it is negative or no number."""
        return check_seconds("timeout_microseconds", self.timeout_microseconds, 1e-6, "a number of microseconds")

    def latency_seconds(self) -> float | None:
        """Return ``latency_target`` in seconds; raise PoprtError if it is no duration above 0."""
        if self.latency_target is None:
            return None
        seconds = check_seconds("latency_target", self.latency_target, 1.0, "a number of seconds or a timedelta")
        if seconds == 0:
            raise PoprtError("latency_target: expected more than 0 seconds; None sets no bound")
        return seconds

    def pack_bytes(self, lanes: int) -> int:
        """Return ``max_pack_bytes`` for so many lanes; raise PoprtError if it is no whole number of 0 or more."""
        if self.max_pack_bytes is None:
            return LANE_BYTES * lanes
        return check_int("max_pack_bytes", self.max_pack_bytes, 0)

    def _check_target(self) -> None:
        """Refuse a target that the timeout alone would miss."""
        target, timeout = self.latency_seconds(), self.timeout_seconds()
        if target is not None and not self.send_when_idle and timeout >= target:
            raise PoprtError(
                f"latency_target={self.latency_target!r}: with send_when_idle off a request may wait {timeout:g} s for "
                "others (timeout_microseconds); give a larger target or a shorter timeout"
            )

    def _check_modes(self) -> None:
        """Refuse what was put in the place of the modes that the methods set."""
        for name, mode in (("single_row_mode", SingleRowMode), ("padding_remove_mode", PaddingRemoveMode)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, mode):
                raise PoprtError(f"{name}: is set by enable_{_SETTERS[name]}(), got {value!r}")


_SETTERS = {"single_row_mode": "input_single_row_mode", "padding_remove_mode": "padding_remove_mode"}


def _check_queue(config: RuntimeConfig | PackRunnerConfig) -> None:
    if config.queue_tokens is not None:
        check_int("queue_tokens", config.queue_tokens, 1)
    if config.observer is not None:
        check_callable("observer", config.observer)
