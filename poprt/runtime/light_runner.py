"""The light runner: a model runner whose float weights may be replaced, and that may be stopped and started again."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from poprt.errors import InputError, RunnerClosedError
from poprt.executable import Executable, TensorSpec
from poprt.runtime.buffers import Array, check_dtype
from poprt.runtime.config import RuntimeConfig
from poprt.runtime.data_desc import DataDesc
from poprt.runtime.model_runner import ModelRunner
from poprt.runtime.runner import Outputs, refuse_several
from poprt.runtime.served_model import Rows, ServedModel


@dataclass
class LightRunnerConfig(RuntimeConfig):
    """Options of a light runner: those of a model runner."""


class _Engine(Protocol):
    """What is asked of the engine's session besides runs."""

    def update_weights(self, weights: Mapping[str, Array]) -> None:
        """Replace weights, all of them at one moment."""


class LightRunner(ModelRunner, configured_by=LightRunnerConfig):
    """Runs requests as a model runner does. The float weights may be replaced where the executable was compiled with
    ``constant_weights=False``.

    Args:
        executable: an ``Executable`` of one model or the path of one.
        config: the options; None takes the defaults.
        options: ``session``, ``threads``, ``providers`` and ``spin_between_runs``, as for ``Runner``.

    Raises:
        PoprtError: an option is out of range or does not suit the executable, or that holds several models.
    """

    def __init__(
        self, executable: Executable | str | Path, config: LightRunnerConfig | None = None, **options: Any
    ) -> None:
        self._anchors: dict[str, Array] = {}
        self._options = options
        self._control = threading.Lock()
        self._stopped = False
        super().__init__(executable, LightRunnerConfig() if config is None else config, **options)
        weights = [spec for spec in self.executable.manifest.weights if not spec.constant]
        self._weights = {
            spec.name: TensorSpec(spec.name, spec.shape, spec.dtype, spec.engine_dtype) for spec in weights
        }

    def _serve(self, **options: Any) -> list[ServedModel]:
        refuse_several(self.executable, type(self).__name__)
        models = super()._serve(**options)
        self._engine = cast(_Engine, models[0].session.engine_session)
        if self._anchors:
            self._engine.update_weights(self._anchors)
        return models

    def get_model_inputs(self) -> Sequence[DataDesc]:
        """Return the inputs of a request, and the weights that may be replaced, whose values the executable has."""
        return [*self.get_execute_inputs(), *(DataDesc(spec, contains_data=True) for spec in self._weights.values())]

    def set_input_anchor(self, name: str, array: Array) -> None:
        """Say where the new values of a weight are; ``update_weights`` and ``reload`` read them there.

        Args:
            name: of a weight that ``get_model_inputs`` lists.
            array: of its shape, and of a type that casts to its type. It is not copied now.

        Raises:
            InputError: there is no such weight, or the array has another shape or type.
        """
        spec = self._weights.get(name)
        if spec is None:
            listed = ", ".join(self._weights) or "none: compile with CompilerOptions(constant_weights=False)"
            raise InputError(f"{name!r} is no weight that may be replaced; there are {listed}")
        if not isinstance(array, np.ndarray) or array.shape != spec.shape:
            shape = list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"weight {name!r}: expected an array of shape {list(spec.shape)}, got {shape}")
        check_dtype(name, array, spec.dtype)
        self._anchors[name] = array

    def update_weights(self) -> None:
        """Replace the weights by what their anchors hold now, all at one moment: a run sees the old ones or the new.

        Raises:
            RunnerClosedError: the runner is stopped.
        """
        with self._control:
            self._check_running()
            self._engine.update_weights(self._anchors)

    def stop(self) -> None:
        """Answer the requests that wait and give the engine's memory back. A second call does nothing."""
        with self._control:
            self._stop()

    def reload(self) -> None:
        """Load the executable again, and the weights that the anchors hold now, and take requests again."""
        with self._control:
            self._stop()
            self._start(**self._options)
            self._stopped = False

    def _stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self.close()
        for model in self._models:
            model.release()
        del self._engine

    def _request(self, inputs: Mapping[str, Array], outputs: Outputs) -> Rows:
        self._check_running()
        return super()._request(inputs, outputs)

    def _check_running(self) -> None:
        if self._stopped:
            raise RunnerClosedError("the runner is stopped: reload() lets it take requests again")
