"""A folder of Triton's model repository: the graph with its weights, the configuration, and what a client needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from passes.folders import make_folder
from poprt.atomic_file import replacing
from poprt.engine.plain import plain_session
from poprt.errors import PoprtError
from poprt.executable import TEXT, TOKENIZER, Executable, WeightSpec, place_weights
from poprt.sizes import LARGEST_MESSAGE
from poprt.text.facts import TextFacts, read_facts
from poprt.triton.config import model_config
from poprt.triton.graph import serving_graph
from poprt.triton.interface import Interface, TritonOptions, read_interface

logger = logging.getLogger("poprt")

GRAPH, WEIGHTS, CONFIG, LABELS = "model.onnx", "model.onnx.data", "config.pbtxt", "labels.txt"
_VERSION = "1"


@dataclass(frozen=True)
class ExportedModel:
    """What was written.

    Attributes:
        folder: the model's folder in the repository.
        interface: its inputs and outputs.
        files: the files, relative to the folder, in the order in which they were written.
    """

    folder: Path
    interface: Interface
    files: tuple[str, ...]


def export_triton(executable: Executable, repository: str | Path, options: TritonOptions) -> ExportedModel:
    """Write ``repository/NAME`` for Triton's onnxruntime backend.

    Files that are there are replaced, each when its new contents are complete, the configuration last.

    Args:
        executable: a packed one.
        repository: a folder; it is made where there is none.
        options: name, batch size, instances and threads.

    Raises:
        PoprtError: Triton cannot serve it, or onnxruntime does not load the graph; the message gives the reason.
        OSError: a file cannot be written.
    """
    interface = read_interface(executable, options)
    if executable.manifest.shared_scales:
        logger.warning("answers move with the other requests of a batch: the model was packed with shared scales")
    model = serving_graph(executable, interface)
    arrays = dict(_weights(executable))
    _check_loads(model, arrays)
    files = _texts(executable)
    files[CONFIG] = model_config(interface, options, LABELS if LABELS in files else "").encode()
    folder = Path(repository) / options.name
    make_folder(folder / _VERSION)
    names = _write_model(model, arrays, folder / _VERSION)
    for name, data in files.items():
        with replacing(folder / name) as file:
            file.write(data)
    return ExportedModel(folder, interface, (*(f"{_VERSION}/{name}" for name in names), *files))


def _weights(executable: Executable) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The weights in the engine's types."""
    for spec in executable.manifest.weights:
        yield spec.name, _array(executable, spec)


def _array(executable: Executable, spec: WeightSpec) -> npt.NDArray[Any]:
    dtype = np.dtype(spec.engine_dtype).newbyteorder("<")
    return np.asarray(executable.weight(spec.name), dtype=dtype, order="C")


def _check_loads(model: onnx.ModelProto, arrays: dict[str, npt.NDArray[Any]]) -> None:
    try:
        plain_session(model.SerializeToString(), optimise=False, weights=arrays)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise PoprtError(f"onnxruntime does not load the graph, so nothing is written: {error}") from error


def _texts(executable: Executable) -> dict[str, bytes]:
    """The tokenizer of a text model, and its labels; Triton shows them to clients that ask for classes."""
    texts = executable.texts
    if not texts:
        return {}
    files = {TOKENIZER: texts[TOKENIZER], TEXT: texts[TEXT]}
    labels = _labels(read_facts(texts[TEXT], executable.manifest), executable)
    return {**files, LABELS: labels} if labels else files


def _labels(facts: TextFacts, executable: Executable) -> bytes:
    """One label a line; nothing where the first output has no value for each."""
    by_token = executable.packing is not None and executable.packing.outputs[facts.outputs[0]] == "tokens"
    first = executable.outputs[0].name
    if by_token or facts.outputs[0] != first or any("\n" in label for label in facts.labels):
        return b""
    return "".join(f"{label}\n" for label in facts.labels).encode()


def _write_model(model: onnx.ModelProto, arrays: dict[str, npt.NDArray[Any]], folder: Path) -> list[str]:
    """The graph with its weights in it, or beside it where they are many; the names of the files."""
    places = place_weights(arrays)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in arrays}
    beside = sum(array.nbytes for array in arrays.values()) > LARGEST_MESSAGE
    for name, tensor in tensors.items():
        del tensor.external_data[:]
        if beside:
            start, length = places[name]
            for key, value in {"location": WEIGHTS, "offset": start, "length": length}.items():
                tensor.external_data.add(key=key, value=str(value))
        else:
            tensor.ClearField("data_location")
            tensor.raw_data = arrays[name].tobytes()
    if beside:
        with replacing(folder / WEIGHTS) as file:
            for name, array in arrays.items():
                file.seek(places[name][0])
                file.write(array.reshape(-1).view(np.uint8).data)
    with replacing(folder / GRAPH) as file:
        file.write(model.SerializeToString())
    return [WEIGHTS, GRAPH] if beside else [GRAPH]
