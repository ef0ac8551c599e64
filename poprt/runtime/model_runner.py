"""The model runner: requests in the declared shapes, or of any batch size, of one model or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poprt.errors import InputError, PoprtError
from poprt.executable import Executable
from poprt.fused_names import INDEX, FusedNames, check_index
from poprt.runtime.batching import Batcher
from poprt.runtime.buffers import Array
from poprt.runtime.company import announce_shared_scales
from poprt.runtime.config import RuntimeConfig
from poprt.runtime.declared import DeclaredSession
from poprt.runtime.row_batches import row_batches
from poprt.runtime.runner import Outputs, Runner
from poprt.runtime.served_model import Rows, ServedModel


class _BatchWorker:
    """Runs requests in batches, those of a model together, or one by one where its batch size is not dynamic."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._batches = [model.batches for model in models]

    def is_full(self, count: int, size: int) -> bool:
        return any(batches is None or 0 < batches.most() <= size for batches in self._batches)

    def choose(self, window: Sequence[Rows]) -> list[Rows]:
        """Let later requests of its model fill the rows that the first leaves free in its last batch."""
        batches = window[0].model.batches
        if batches is None:
            return [window[0]]
        own = [request for request in window if request.model is window[0].model]
        room = batches.room(own[0].size, sum(request.size for request in own))
        batch: list[Rows] = []
        for request in own:
            if request.size <= room:
                batch.append(request)
                room -= request.size
        return batch

    def release(self, batch: Sequence[Rows]) -> None:
        """Nothing is held for a batch."""

    def run(self, batch: Sequence[Rows]) -> float:
        return batch[0].model.run(batch)


class ModelRunner(Runner, configured_by=RuntimeConfig):
    """Runs requests in the declared shapes or, with ``batching_dim``, of any batch size.

    With ``batching_dim`` whole batches run as they are, the rest shares a batch with other requests or is padded with
    zeros; the outputs have as many rows as the inputs.

    A request to an executable of several models is one to the model that has its inputs and outputs, and runs that one
    alone. Their names are ``graph0/x`` and so on, or plain where one model has them; ``index``, a number given beside
    the inputs, says which model plain names mean. Runs of all models take turns in one queue.

    Args:
        executable: an ``Executable`` or the path of one.
        config: the options; None takes the defaults.
        options: ``session``, ``threads``, ``providers`` and ``spin_between_runs``, as for ``Runner``. Several models
            are run on sessions of their own, whose threads rest between runs.

    Raises:
        PoprtError: an option is out of range or does not suit the executable.
    """

    def __init__(
        self,
        executable: Executable | str | Path,
        config: RuntimeConfig | None = None,
        **options: Any,
    ) -> None:
        super().__init__(executable, config, **options)
        self._config = (RuntimeConfig() if config is None else config).checked()
        self._config.announce_without_effect()
        self._start(**options)

    def _start(self, **options: Any) -> None:
        """Open the engine and take requests."""
        self._models = self._serve(**options)
        self._batcher = Batcher(
            _BatchWorker(self._models),
            timeout=self._config.timeout_seconds(),
            send_when_idle=self._config.send_when_idle,
            limit=self._config.queue_limit(),
            token_limit=self._config.queue_tokens,
            unit="rows",
            observer=self._config.observer,
        )

    def _serve(self, **options: Any) -> list[ServedModel]:
        """Open the engine on each model."""
        several = self.executable.models
        if not several:
            return [self._served(self.executable, **options)]
        if options.get("session") is not None:
            raise PoprtError("session: the executable holds several models, and a session is over one; leave it out")
        self._names = FusedNames([[spec.name for spec in (*one.inputs, *one.outputs)] for one in several])
        return [self._served(model, **{**options, "spin_between_runs": False}) for model in several]

    def _served(self, executable: Executable, **options: Any) -> ServedModel:
        batches = row_batches(executable.manifest, self._config.batching_dim)
        if batches is not None:
            announce_shared_scales(executable.manifest)
        free_axes = batches.axes if batches is not None and batches.any_size else {}
        config = self._config
        options |= {"engine": config.engine, "custom_ops": config.custom_ops}
        session = DeclaredSession(executable, free_axes=free_axes, **options)
        return ServedModel(executable, session, batches, validate=self._config.validate_io_params)

    def _request(self, inputs: Mapping[str, Array], outputs: Outputs) -> Rows:
        if not self.executable.models:
            return self._models[0].request(inputs, outputs)
        named = inputs
        index = None
        if INDEX in inputs and not self._names.is_in_any(INDEX):
            index = _model_number(inputs[INDEX], len(self._models))
            named = {name: array for name, array in inputs.items() if name != INDEX}
        index = self._names.index_of([*named, *outputs], None if index is None else [index])
        return self._models[index].request(
            {self._names.plain(index, name): array for name, array in named.items()},
            {self._names.plain(index, name): buffer for name, buffer in outputs.items()},
        )


def _model_number(value: Array, count: int) -> int:
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iu":
        raise InputError(f"{INDEX}: expected one whole number, got {number.dtype} of shape {list(number.shape)}")
    try:
        return check_index(int(number.reshape(-1)[0]), count)
    except PoprtError as error:
        raise InputError(str(error)) from error
