"""The executable: one zip file with a manifest, the engine's graph and its weights, and a text model's tokenizer.

One of several models has a graph and weights of each, in folders ``graph0``, ``graph1`` and so on. Members are stored,
not compressed, and start on 64-byte boundaries, so ``unzip -l`` works and the weights can be memory-mapped. Loading
runs nothing from the file.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes  # noqa: F401  numpy knows "bfloat16" from then on
import numpy as np
import numpy.typing as npt

from poprt.container import ALIGNMENT, FORMAT_VERSION, ONE_MODEL, SEVERAL_MODELS, Payload, write_container
from poprt.container_reader import MANIFEST_LIMIT, Container, read_container
from poprt.errors import DamagedExecutableError, ExecutableError
from poprt.fused_names import prefix_of
from poprt.graph_check import check_graph
from poprt.manifest import (
    WEIGHT_DTYPES,
    FusedManifest,
    Manifest,
    PackingSpec,
    PackOperators,
    TensorSpec,
    WeightSpec,
)
from poprt.manifest_rules import check_manifest
from poprt.manifest_schema import is_fused, read_fused_manifest, read_manifest
from poprt.opened_file import Bytes

__all__ = [
    "FORMAT_VERSION",
    "TEXT",
    "TOKENIZER",
    "WEIGHT_DTYPES",
    "Executable",
    "Manifest",
    "PackOperators",
    "PackingSpec",
    "TensorSpec",
    "WeightSpec",
    "place_weights",
]

_GRAPH = "model.onnx"
_OTHER_GRAPH = "model.{engine}.onnx"
_WEIGHTS = "weights.bin"
#: What a text model says of itself, and its tokenizer. Both are there, or neither.
TEXT, TOKENIZER = "text.json", "tokenizer.json"
#: The most bytes of each that are read. Large vocabularies have tokenizers of some 35 MB.
TEXT_LIMITS = {TEXT: 1 << 20, TOKENIZER: 64 << 20}
_HEAD_ROOM = 1024  # what the container adds to a manifest


def place_weights(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[int, int]]:
    """Offset and length in bytes of each array in the weights member, each aligned to 64 bytes."""
    places, end = {}, 0
    for name, array in arrays.items():
        start = end + -end % ALIGNMENT
        end = start + array.nbytes
        places[name] = (start, array.nbytes)
    return places


class Executable:
    """A compiled model, or several, in memory or in a file.

    Args:
        path: the file to load. Its weights stay in the file and are mapped into memory when they are read.
        check_hash: whether to compare the sha256 of the graph and the weights; lengths are always checked.

    Raises:
        FileNotFoundError: there is no such file.
        NotAnExecutableError: the file is something else.
        NewerFormatError: a newer version of poprt wrote the file.
        DamagedExecutableError: the file is truncated or altered, or says what cannot be.
        UnsafeGraphError: its graph would read other files or is known to bring the engine down.
    """

    _container: Container | None = None
    _texts: Mapping[str, bytes] = MappingProxyType({})
    _models: tuple[Executable, ...] = ()

    def __init__(self, path: str | Path, *, check_hash: bool = True) -> None:
        container = read_container(path, check_hash=check_hash)
        try:
            if is_fused(container.manifest):
                self._read_models(container)
                return
            manifest = read_manifest(container.manifest)
            _check_names(container.names, manifest)
            self._read(container, manifest)
            self._texts = {name: _text(container, name) for name in TEXT_LIMITS if name in container.names}
        except ExecutableError as error:
            raise type(error)(f"{path}: {error}") from None

    def _read(self, container: Container, manifest: Manifest, folder: str = "") -> None:
        """Become the model whose graphs and weights are in ``folder``."""
        data, graph = container.view(folder + _WEIGHTS), container.read(folder + _GRAPH)
        others = {engine: container.read(folder + _other_graph(engine)) for engine in manifest.other_graphs}
        check_manifest(manifest, file_bytes=container.size, weight_bytes=len(data))
        _check_graphs(manifest, graph, others)
        self._set(manifest, graph, {spec.name: _weight_view(spec, data) for spec in manifest.weights}, others)
        self._container = container

    def _read_models(self, container: Container) -> None:
        manifest = read_fused_manifest(container.manifest)
        _check_folders(container.names, manifest.models)
        models = []
        for index, said in enumerate(manifest.models):
            models.append(Executable.__new__(Executable))
            models[-1]._read(container, said, prefix_of(index))
        self._fuse(models)

    @classmethod
    def build(
        cls,
        manifest: Manifest,
        graph: bytes,
        weights: Mapping[str, npt.NDArray[Any]] | None = None,
        other_graphs: Mapping[str, bytes] | None = None,
    ) -> Executable:
        """Make an executable in memory.

        Args:
            manifest: its ``weights`` must list exactly the given arrays, at the places of :func:`place_weights`.
            graph: the engine's ONNX graph; each weight is an initializer with external data, or an input.
            weights: the arrays; they are kept, not copied.
            other_graphs: the graphs of the manifest's ``other_graphs``, by engine.

        Raises:
            ValueError: the manifest does not match the arrays or the graphs.
        """
        weights, others = dict(weights or {}), dict(other_graphs or {})
        if set(manifest.other_graphs) != set(others):
            raise ValueError("the manifest lists other graphs than those given")
        places = place_weights(weights)
        if [spec.name for spec in manifest.weights] != list(weights):
            raise ValueError("the manifest lists other weights than those given")
        for spec in manifest.weights:
            array = weights[spec.name]
            if (spec.shape, spec.dtype) != (array.shape, array.dtype.name):
                raise ValueError(f"weight {spec.name!r}: the manifest says {spec.shape} {spec.dtype}")
            if (spec.offset, spec.nbytes) != places[spec.name]:
                raise ValueError(f"weight {spec.name!r}: the manifest gives another place than place_weights")
        executable = cls.__new__(cls)
        executable._set(manifest, graph, {name: _read_only(array) for name, array in weights.items()}, others)
        return executable

    @classmethod
    def fused(cls, models: Sequence[Executable]) -> Executable:
        """One executable of several; graphs and weights are shared, not copied.

        Raises:
            ExecutableError: there is none, or one of them holds several models or a tokenizer.
        """
        for index, model in enumerate(models):
            if model.models or model.texts:
                what = "holds several models itself" if model.models else "is a text model"
                raise ExecutableError(f"executable {index} {what}; only plain models can be fused")
        if not models:
            raise ExecutableError("nothing to fuse: give one executable or more")
        executable = cls.__new__(cls)
        executable._fuse(models)
        return executable

    def _fuse(self, models: Sequence[Executable]) -> None:
        self._set(FusedManifest(tuple(model.manifest for model in models)).union(), b"", {}, {})
        self._models = tuple(models)

    def with_texts(self, texts: Mapping[str, bytes]) -> Executable:
        """The same executable, in memory, with the members of a text model; weights are shared, not copied.

        Args:
            texts: the contents of :data:`TEXT` and :data:`TOKENIZER`.

        Raises:
            ValueError: other members are given.
        """
        if set(texts) != set(TEXT_LIMITS):
            raise ValueError(f"the members of a text model are {TEXT} and {TOKENIZER}")
        executable = type(self).build(self._manifest, self._graph, self._weights, self._other_graphs)
        executable._container, executable._texts = self._container, dict(texts)
        return executable

    def for_engine(self, engine: str) -> Executable:
        """The executable of the graph for ``engine`` alone, in memory; weights are shared, not copied.

        Raises:
            KeyError: there is no graph for it (``manifest.engines``).
        """
        manifest = self._manifest.for_engine(engine)
        executable = type(self).__new__(type(self))
        graph = self._graph if engine == self._manifest.engine else self._other_graphs[engine]
        executable._set(manifest, graph, {spec.name: self._weights[spec.name] for spec in manifest.weights}, {})
        executable._container, executable._texts = self._container, self._texts
        return executable

    def variant(self, *, graph: bytes | None = None, packing: PackingSpec | None = None) -> Executable:
        """The main graph alone, in memory, with another graph or packing in its place; weights are shared."""
        executable = self.for_engine(self._manifest.engine)
        executable._graph = executable._graph if graph is None else graph
        if packing is not None:
            executable._manifest = dataclasses.replace(executable._manifest, packing=packing)
        return executable

    def _set(
        self,
        manifest: Manifest,
        graph: bytes,
        weights: dict[str, npt.NDArray[Any]],
        other_graphs: dict[str, bytes],
    ) -> None:
        self._manifest, self._graph, self._weights = manifest, graph, weights
        self._other_graphs = other_graphs

    def release_pages(self) -> None:
        """Give the memory of the mapped file back. The weights stay readable: they are read from the file again."""
        if self._container is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._container.advise(mmap.MADV_DONTNEED)

    def check_unchanged(self) -> None:
        """Look whether the file behind the weights is still what was loaded, as far as its length and time stamp tell.

        Raises:
            DamagedExecutableError: it was cut short or overwritten in place.
        """
        if self._container is not None:
            self._container.check_unchanged()

    @property
    def models(self) -> tuple[Executable, ...]:
        """Each model of an executable of several, in order; none where there is one."""
        return self._models

    def __repr__(self) -> str:
        return f"Executable(inputs={[s.name for s in self.inputs]}, outputs={[s.name for s in self.outputs]})"

    @property
    def manifest(self) -> Manifest:
        """What the executable says of itself. One of several models has all inputs and outputs, as ``graph0/x``."""
        return self._manifest

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs as the caller sees them."""
        return self._manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs as the caller sees them."""
        return self._manifest.outputs

    @property
    def packing(self) -> PackingSpec | None:
        """How samples share a run; None for a model that is not packed."""
        return self._manifest.packing

    @property
    def opaque_blobs(self) -> dict[str, str]:
        """The texts that the caller gave to the compiler to be kept with the file (a copy)."""
        return dict(self._manifest.opaque_blobs)

    @property
    def texts(self) -> dict[str, bytes]:
        """The members of a text model by name (a copy); empty for an executable without a tokenizer."""
        return dict(self._texts)

    @property
    def graph(self) -> bytes:
        """The ONNX graph for ``manifest.engine``, serialised, without its large tensors.

        Raises:
            ExecutableError: it holds several models, each with a graph of its own.
        """
        if self._models:
            raise ExecutableError(
                f"the executable holds {len(self._models)} models: take one of them, executable.models[0] and so on "
                "(poprt_exec: --index)"
            )
        return self._graph

    def weight(self, name: str) -> npt.NDArray[Any]:
        """The weight ``name`` as it is stored: read-only, and mapped from the file where there is one.

        Raises:
            KeyError: the executable stores no such weight.
            DamagedExecutableError: the file was cut short after it was loaded.
        """
        if name not in self._weights:
            raise KeyError(f"no stored weight {name!r}; there are {', '.join(self._weights) or 'none'}")
        if self._container is not None:
            self._container.check_size()  # to read beyond the end of a mapped file kills the process
        return self._weights[name]

    def save(self, path: str | Path) -> None:
        """Write the executable; the file appears complete or not at all.

        Raises:
            ExecutableError: no loader would take it; the message names the field of the manifest or the node.
        """
        if not self._models:
            body = dataclasses.asdict(self._manifest)
            self._check_loadable(body)
            write_container(path, self._payloads(), body, version=ONE_MODEL)
            return
        bodies = []
        payloads: dict[str, Payload] = {}
        for index, model in enumerate(self._models):
            bodies.append(dataclasses.asdict(model.manifest))
            payloads.update(model._payloads(prefix_of(index)))
        fused = {"models": bodies}
        for model in self._models:
            model._check_loadable(fused)
        write_container(path, payloads, fused, version=SEVERAL_MODELS)

    def _payloads(self, folder: str = "") -> dict[str, Payload]:
        payloads = {
            _GRAPH: Payload(len(self._graph), [self._graph]),
            **{_other_graph(engine): Payload(len(graph), [graph]) for engine, graph in self._other_graphs.items()},
            _WEIGHTS: Payload(self._weight_bytes(), self._weight_chunks()),
            **{name: Payload(len(data), [data]) for name, data in self._texts.items()},
        }
        return {folder + name: payload for name, payload in payloads.items()}

    def _weight_bytes(self) -> int:
        return max((spec.offset + spec.nbytes for spec in self._manifest.weights), default=0)

    def _check_loadable(self, body: dict[str, Any]) -> None:
        """Apply what is checked when the file is loaded, so that no file is written that cannot be.

        Args:
            body: the manifest of the file, in which this may be one model of several.
        """
        size = self._weight_bytes()
        try:
            manifest = json.dumps(body, indent=1, sort_keys=True)
            if len(manifest) > MANIFEST_LIMIT - _HEAD_ROOM:
                raise ExecutableError(f"its manifest has {len(manifest)} bytes, at most {MANIFEST_LIMIT} are read")
            (read_fused_manifest if is_fused(body) else read_manifest)(json.loads(manifest))
            check_manifest(self._manifest, file_bytes=len(self._graph) + size, weight_bytes=size)
            _check_graphs(self._manifest, self._graph, self._other_graphs)
            for name, data in self._texts.items():
                _check_text_size(name, len(data))
        except ExecutableError as error:
            raise ExecutableError(f"the executable is not written, it could not be loaded: {error}") from error

    def _weight_chunks(self) -> Iterator[bytes | memoryview]:
        position = 0
        for spec in self._manifest.weights:
            yield bytes(spec.offset - position)
            yield _little_endian(self._weights[spec.name]).reshape(-1).view(np.uint8).data
            position = spec.offset + spec.nbytes


def _other_graph(engine: str) -> str:
    return _OTHER_GRAPH.format(engine=engine)


def _graphs(manifest: Manifest) -> set[str]:
    return {_GRAPH, *map(_other_graph, manifest.other_graphs)}


def _check_names(names: Sequence[str], manifest: Manifest) -> None:
    """Graphs and weights; a text model has its two members as well."""
    graphs = _graphs(manifest)
    if set(names) not in ({*graphs, _WEIGHTS}, {*graphs, _WEIGHTS, *TEXT_LIMITS}):
        raise DamagedExecutableError(
            f"its members are {sorted(names)}, not {', '.join(sorted(graphs))} and {_WEIGHTS}, with {TEXT} and "
            f"{TOKENIZER} or without"
        )


def _check_folders(names: Sequence[str], models: Sequence[Manifest]) -> None:
    """Graphs and weights of each of the models."""
    expected = {prefix_of(index) + name for index, said in enumerate(models) for name in (*_graphs(said), _WEIGHTS)}
    if set(names) != expected:
        raise DamagedExecutableError(f"its members are {sorted(names)}, not {sorted(expected)}")


def _check_graphs(manifest: Manifest, graph: bytes, others: Mapping[str, bytes]) -> None:
    """Check each graph against the weights that it may read."""
    for engine, each in {manifest.engine: graph, **others}.items():
        check_graph(each, manifest.for_engine(engine).weights)


def _text(container: Container, name: str) -> bytes:
    _check_text_size(name, len(container.view(name)))
    return container.read(name)


def _check_text_size(name: str, size: int) -> None:
    if size > TEXT_LIMITS[name]:
        raise DamagedExecutableError(f"member {name!r} has {size} bytes, at most {TEXT_LIMITS[name]} are read")


def _little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _weight_view(spec: WeightSpec, data: Bytes) -> npt.NDArray[Any]:
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    view: npt.NDArray[Any] = data[spec.offset : spec.offset + spec.nbytes].view(dtype).reshape(spec.shape)
    return view
