"""What the protocol says of the server and its models, as plain values: REST writes them as JSON, gRPC as messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import orjson

from poprt.runtime import PackRunner
from poprt.serve.errors import NotFound
from poprt.serve.kserve.signature import Signature, TensorFacts, signature_of
from poprt.serve.kserve.statistics import Statistics
from poprt.serve.models import Models, ServedModel
from poprt.version import VERSION

if TYPE_CHECKING:
    from poprt.serve.app import State

#: What the server can do beyond the protocol's core, by the names that clients look for.
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")
#: What kind of model it is: "<project>_<format>".
PLATFORM = "poprt_popef"
_TYPES = {"BYTES": "TYPE_STRING"}  # the configuration calls a type TYPE_ and its name, but for this one


@dataclass
class Entry:
    """What this protocol keeps of a model: its tensors, and what was asked of it."""

    signature: Signature
    statistics: Statistics = field(default_factory=Statistics)


_ENTRIES: WeakKeyDictionary[ServedModel, Entry] = WeakKeyDictionary()


def entry_of(model: ServedModel) -> Entry:
    """The entry of a model; it is made when it is first asked for."""
    entry = _ENTRIES.get(model)
    if entry is None:
        facts = None if model.text is None else model.text.facts
        entry = _ENTRIES[model] = Entry(signature_of(model.executable.manifest, facts))
    return entry


def find(models: Models, name: str, version: str = "") -> ServedModel:
    """The model of this name and version; "" is any version. Raise NotFound."""
    model = models.find(name)
    if version not in ("", model.version):
        raise NotFound(f"model {name!r} has version {model.version!r}, not {version!r:.50}")
    return model


def named(models: Models, name: str, version: str = "") -> list[ServedModel]:
    """The model of this name; all where it is "". Raise NotFound."""
    return [find(models, name, version)] if name else list(models.values())


def is_ready(state: State) -> bool:
    """Whether requests are answered: every model runs, and the server is not about to end."""
    return not state.draining and all(model.ready for model in state.models.values())


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "poprt", "version": VERSION, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """The tensors of a model, texts first."""
    signature = entry_of(model).signature
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [_tensor(item) for item in signature.inputs],
        "outputs": [_tensor(item) for item in signature.outputs.values()],
    }


def model_config(model: ServedModel, max_client_batch: int) -> dict[str, Any]:
    """The configuration that Triton's clients ask for.

    ``max_batch_size`` is 0: the extents name the batch axis themselves.
    """
    signature = entry_of(model).signature
    either = bool(signature.texts)  # texts or arrays: a request leaves out the others
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": "poprt",
        "max_batch_size": 0,
        "input": [{**_dims(item), "optional": item.optional or either} for item in signature.inputs],
        "output": [_dims(item) for item in signature.outputs.values()],
        "parameters": {name: {"string_value": value} for name, value in _facts(model, max_client_batch).items()},
    }


def model_statistics(model: ServedModel) -> dict[str, Any]:
    """What was asked of a model by this protocol, and the packs that ran for all who ask."""
    statistics = entry_of(model).statistics
    packs = {"execution_count": model.runner.stats().packs} if isinstance(model.runner, PackRunner) else {}
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": statistics.last,
        "inference_count": statistics.samples,
        **packs,
        "inference_stats": statistics.durations(),
    }


def repository_index(models: Iterable[ServedModel], only_ready: bool) -> list[dict[str, Any]]:
    """Every model with its state."""
    return [
        {
            "name": model.name,
            "version": model.version,
            "state": "READY" if model.ready else "UNAVAILABLE",
            "reason": "" if model.ready else "its runner is closed, or one of its lanes died",
        }
        for model in models
        if model.ready or not only_ready
    ]


def _tensor(item: TensorFacts) -> dict[str, Any]:
    return {"name": item.name, "datatype": item.datatype.name, "shape": list(item.shape)}


def _dims(item: TensorFacts) -> dict[str, Any]:
    kind = _TYPES.get(item.datatype.name, f"TYPE_{item.datatype.name}")
    return {"name": item.name, "data_type": kind, "dims": list(item.shape)}


def _facts(model: ServedModel, max_client_batch: int) -> dict[str, str]:
    """What a client may like to know of a model beside its tensors."""
    facts = {"max_client_batch": str(max_client_batch)}
    if model.text is not None:
        facts["task"] = model.text.task
        facts["max_length"] = str(model.text.max_length)
        facts["labels"] = orjson.dumps(model.text.labels).decode()
    return facts
