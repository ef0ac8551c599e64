"""What every runner offers, and the choice between them by the type of the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from poprt.errors import InputError, PoprtError, RunnerClosedError
from poprt.executable import Executable
from poprt.runtime.batching import Batcher, Flow, Pending, Request, RunFuture
from poprt.runtime.buffers import Array
from poprt.runtime.checks import check_session_options
from poprt.runtime.data_desc import DataDesc

if TYPE_CHECKING:
    from typing import Self


Outputs = Mapping[str, Array]


def load(executable: Executable | str | Path, check_hash: bool = True) -> Executable:
    """Return an executable, read from its file where a path is given."""
    if isinstance(executable, (str, os.PathLike)):
        return Executable(Path(executable), check_hash=check_hash)
    if not isinstance(executable, Executable):
        raise PoprtError(f"executable: expected an Executable or the path of one, got {type(executable).__name__}")
    return executable


def refuse_several(executable: Executable, runner: str) -> None:
    """Raise PoprtError where an executable holds several models."""
    if executable.models:
        raise PoprtError(
            f"a {runner} serves one model, and the executable holds {len(executable.models)}: give it one of them, "
            "executable.models[0] and so on (poprt_exec: --index)"
        )


class Runner:
    """Runs an executable. ``Runner(path_or_executable, config)`` makes the runner that the configuration asks for.

    ``RuntimeConfig`` or None makes a ``ModelRunner``, ``PackRunnerConfig`` a ``PackRunner``. Every method may be called
    from any thread. The arrays of a request belong to the runner until its future is done.

    Values that index a table of the model, such as token ids, have to be rows of it: a request with another value, or a
    negative one, fails alone, before it runs.

    A runner has threads, and a fork copies none: in a forked child it raises RunnerClosedError. Make it in each worker
    process (gunicorn without ``--preload``, or in its ``post_fork``), or start processes by
    ``multiprocessing.get_context("spawn")``.

    Args:
        executable: an ``Executable`` or the path of one.
        config: the options.
        options: ``session``, an engine session to use; without it ``threads`` (for one operator; a pack runner with
            several lanes shares the cores among them), ``providers`` and ``spin_between_runs`` (on by default: the
            engine's threads keep their cores busy for some 50 ms after a run, and the next one begins sooner) for a new
            one.

    Raises:
        PoprtError: an option is of a wrong type, out of range, or does not suit the executable.
    """

    #: Batches that run at the same time.
    lanes: int = 1

    _for_config: ClassVar[dict[type, type[Runner]]] = {}
    _batcher: Batcher[Any]

    def __init_subclass__(cls, *, configured_by: type) -> None:
        Runner._for_config[configured_by] = cls

    def __new__(cls, executable: object = None, config: object = None, **options: Any) -> Self:
        """Choose the class by the configuration's type."""
        chosen: type[Any] = cls
        if cls is Runner:
            default = next(iter(Runner._for_config.values()))
            runner_class = default if config is None else Runner._for_config.get(type(config))
            if runner_class is None:
                configs = ", ".join(t.__name__ for t in Runner._for_config)
                raise PoprtError(f"config: expected one of {configs} or None, got {type(config).__name__}")
            chosen = runner_class
        runner: Self = object.__new__(chosen)
        return runner

    def __init__(self, executable: Executable | str | Path, config: object = None, **options: Any) -> None:
        for kind, runner in Runner._for_config.items():
            if isinstance(self, runner) and config is not None and not isinstance(config, kind):
                raise PoprtError(f"config: expected {kind.__name__} or None, got {type(config).__name__}")
        check_session_options(**options)
        self.executable = load(executable, getattr(config, "check_package_hash", True))

    def _request(self, inputs: Mapping[str, Array], outputs: Outputs) -> Request:
        """Check the arrays of a call and make a request of them; raise InputError."""
        raise NotImplementedError  # not abstract: callers write Runner(...) and get the class that suits

    def _checked(self, inputs: Mapping[str, Array], outputs: Outputs) -> Request:
        for what, arrays in (("inputs", inputs), ("outputs", outputs)):
            if not isinstance(arrays, Mapping):
                raise InputError(f"{what}: expected a mapping of names to arrays, got {type(arrays).__name__}")
        return self._request(inputs, outputs)

    def execute(self, inputs: Mapping[str, Array], outputs: Outputs) -> None:
        """Run a request and fill the arrays in ``outputs`` in place.

        Args:
            inputs: input name -> array.
            outputs: output name -> array to fill. An output that is left out is not returned.

        Raises:
            InputError: the request is not one that the executable takes; the message names the tensor.
            RunnerClosedError: the runner is closed.
        """
        self._batcher.check_may_wait()
        self._batcher.submit(self._checked(inputs, outputs)).wait()

    def execute_async(self, inputs: Mapping[str, Array], outputs: Outputs, flow: Flow | None = None) -> RunFuture:
        """Queue a request and return its future. Blocks while the queue is full.

        The future carries every error that ``execute`` raises, those of a misspelt name or an array of a wrong type
        among them; only a closed runner raises here, RunnerClosedError.

        Args:
            inputs: input name -> array.
            outputs: output name -> array to fill.
            flow: requests of one flow take turns with those of others as one; None: this one is a flow of its own.
        """
        try:
            request = self._checked(inputs, outputs)
        except RunnerClosedError:
            raise
        except Exception as error:  # of a caller's mapping or array as well
            failed = RunFuture()
            failed.set_exception(error)
            return failed
        return self._batcher.submit(request, flow)

    def submit(self, samples: Sequence[tuple[Mapping[str, Array], Outputs]]) -> list[RunFuture]:
        """Queue several requests, all of them or none. Never blocks.

        They are a flow: however many they are, they put off a request of others by no more than its share.

        Args:
            samples: inputs and outputs of each, as ``execute_async`` takes them.

        Returns:
            The future of each.

        Raises:
            QueueFullError: the queue has no room for all of them; ``can_retry`` says whether it ever has.
            InputError: one is not a request that the executable takes; the message gives its number.
            RunnerClosedError: the runner is closed.
        """
        if not isinstance(samples, Iterable):
            raise InputError(f"samples: expected a list of pairs of inputs and outputs, got {type(samples).__name__}")
        return self._batcher.submit_all([self._numbered(number, sample) for number, sample in enumerate(samples)])

    def _numbered(self, number: int, sample: tuple[Mapping[str, Array], Outputs]) -> Request:
        try:
            if not isinstance(sample, Sequence) or len(sample) != 2:
                raise InputError(f"expected a pair of inputs and outputs, got {type(sample).__name__}")
            return self._checked(*sample)
        except InputError as error:
            raise error.of_sample(number) from error

    def pending(self) -> Pending:
        """Return what waits for a run: ``requests`` and ``tokens`` (rows of a model runner), cancelled ones not."""
        return self._batcher.pending()

    def running(self) -> int:
        """Return how many batches are being run now: how many of the ``lanes`` are busy."""
        return self._batcher.running()

    @property
    def failure(self) -> BaseException | None:
        """Why a lane died, which closes the runner; None where none did."""
        return self._batcher.failure

    def on_failure(self, callback: Callable[[BaseException], object]) -> None:
        """Have a function called, once, with the cause when a lane has died; at once if one has.

        The lane's thread calls it, when every request is answered. The runner's threads keep it alive until they end.
        """
        self._batcher.on_failure(callback)

    def get_execute_inputs(self) -> Sequence[DataDesc]:
        """Return the inputs of a request, in the executable's order."""
        return [DataDesc(spec) for spec in self.executable.manifest.inputs]

    def get_execute_outputs(self) -> Sequence[DataDesc]:
        """Return the outputs of a request, in the executable's order."""
        return [DataDesc(spec) for spec in self.executable.manifest.outputs]

    def get_model_inputs(self) -> Sequence[DataDesc]:
        """Return the model's inputs; here the same as ``get_execute_inputs``."""
        return self.get_execute_inputs()

    def get_model_outputs(self) -> Sequence[DataDesc]:
        """Return the model's outputs; the same as ``get_execute_outputs``."""
        return self.get_execute_outputs()

    def close(self, cancel: bool = False) -> None:
        """Take no more requests. Those that wait are answered or, with ``cancel``, fail with RunnerClosedError."""
        self._batcher.close(cancel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=error is not None)

    # Older scripts use the names of the C++ interface.
    executeAsync = execute_async  # noqa: N815
    getExecuteInputs = get_execute_inputs  # noqa: N815
    getExecuteOutputs = get_execute_outputs  # noqa: N815
    getModelInputs = get_model_inputs  # noqa: N815
    getModelOutputs = get_model_outputs  # noqa: N815
