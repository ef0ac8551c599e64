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

import numpy as np
import numpy.typing as npt

from poprt.container import FORMAT_VERSION, ONE_MODEL, SEVERAL_MODELS, Payload, write_container
from poprt.container_reader import MANIFEST_LIMIT, Container, read_container
from poprt.errors import ExecutableError
from poprt.executable_members import (
    GRAPH,
    TEXT,
    TEXT_LIMITS,
    TOKENIZER,
    WEIGHTS,
    check_folders,
    check_graphs,
    check_names,
    check_text_size,
    other_graph,
    read_text,
)
from poprt.fused_names import prefix_of
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
from poprt.stored_weights import little_endian, place_weights, read_only, weight_view

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

_HEAD_ROOM = 1024  # what the container adds to a manifest


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
            check_names(container.names, manifest)
            self._read(container, manifest)
            self._texts = {name: read_text(container, name) for name in TEXT_LIMITS if name in container.names}
        except ExecutableError as error:
            raise type(error)(f"{path}: {error}") from None

    def _read(self, container: Container, manifest: Manifest, folder: str = "") -> None:
        """Become the model whose graphs and weights are in ``folder``."""
        data, graph = container.view(folder + WEIGHTS), container.read(folder + GRAPH)
        others = {engine: container.read(folder + other_graph(engine)) for engine in manifest.other_graphs}
        check_manifest(manifest, file_bytes=container.size, weight_bytes=len(data))
        check_graphs(manifest, graph, others)
        self._set(manifest, graph, {spec.name: weight_view(spec, data) for spec in manifest.weights}, others)
        self._container = container

    def _read_models(self, container: Container) -> None:
        manifest = read_fused_manifest(container.manifest)
        check_folders(container.names, manifest.models)
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
        executable._set(manifest, graph, {name: read_only(array) for name, array in weights.items()}, others)
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

    def variant(
        self, *, graph: bytes | None = None, packing: PackingSpec | None = None, weights_as_inputs: bool = False
    ) -> Executable:
        """The main graph alone, in memory, changed; weights are shared.

        Args:
            graph, packing: what is put in the place of its own; None leaves it.
            weights_as_inputs: the graph takes all weights as inputs, as replaceable ones are.
        """
        executable = self.for_engine(self._manifest.engine)
        changes: dict[str, Any] = {} if packing is None else {"packing": packing}
        if weights_as_inputs:
            changes["weights"] = tuple(dataclasses.replace(spec, constant=False) for spec in self._manifest.weights)
        executable._manifest = dataclasses.replace(executable._manifest, **changes)
        executable._graph = executable._graph if graph is None else graph
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
            GRAPH: Payload(len(self._graph), [self._graph]),
            **{other_graph(engine): Payload(len(graph), [graph]) for engine, graph in self._other_graphs.items()},
            WEIGHTS: Payload(self._weight_bytes(), self._weight_chunks()),
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
            check_graphs(self._manifest, self._graph, self._other_graphs)
            for name, data in self._texts.items():
                check_text_size(name, len(data))
        except ExecutableError as error:
            raise ExecutableError(f"the executable is not written, it could not be loaded: {error}") from error

    def _weight_chunks(self) -> Iterator[bytes | memoryview]:
        position = 0
        for spec in self._manifest.weights:
            yield bytes(spec.offset - position)
            yield little_endian(self._weights[spec.name]).reshape(-1).view(np.uint8).data
            position = spec.offset + spec.nbytes
