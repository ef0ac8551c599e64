"""The executable: one zip file with a manifest, the engine's graph and its weights.

Members are stored, not compressed, and start on 64-byte boundaries, so ``unzip -l`` works and the weights can be
memory-mapped. Loading runs nothing from the file.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.container import ALIGNMENT, FORMAT_VERSION, Bytes, Payload, read_container, write_container
from poprt.errors import DamagedExecutableError

__all__ = [
    "FORMAT_VERSION",
    "WEIGHT_DTYPES",
    "Executable",
    "Manifest",
    "PackingSpec",
    "TensorSpec",
    "WeightSpec",
    "place_weights",
]

#: Numpy names of the types that the weights member may hold.
WEIGHT_DTYPES = frozenset(
    {"float16", "float32", "float64", "bool"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)

_GRAPH = "model.onnx"
_WEIGHTS = "weights.bin"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the caller sees it.

    Attributes:
        name: the tensor's name.
        shape: declared extents; 0 where the model leaves one open.
        dtype: numpy name of the declared type ("float16").
        engine_dtype: numpy name of the type that the engine's graph takes or gives ("float32" where fp16 was lowered).
        id_limit: an input whose values are rows of a table (token ids) takes 0 to ``id_limit - 1``; 0 is no limit.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    engine_dtype: str
    id_limit: int = 0


@dataclass(frozen=True)
class PackingSpec:
    """How requests of many lengths share one run.

    Attributes:
        style: "unpack_repack" (samples laid end to end) or "attention_mask" (samples share rows).
        rows, columns: declared extents R and C of the packed inputs.
        max_valid_num: most samples in one pack.
        segment_max_size: longest sample, by segment.
        unpack_info: name of the input with the sample lengths, int32 [max_valid_num, segments]; "" where there is none.
        dynamic_inputs: inputs of shape [R, C] that hold one value a token.
        mask: the mask input's name.
        position_ids: the position input's name, "" where the model makes positions itself.
        outputs: output name -> "tokens" ([max_valid_num, sum(segment_max_size), ...]), "sample" ([max_valid_num, ...])
            or "packed" ([R, C, ...], style B).
        ragged: the engine's graph takes [1, T] for T real tokens and [n, segments] lengths, and unpacks only to the
            longest sample present; otherwise it takes the declared shapes alone.
        neighbours: which samples may share a run: "any", "same_length" (padding would show in an answer, so a run takes
            samples of one length only) or "none" (samples of a run would mix, so each runs by itself).
        isolation: why that is so, for people: the nodes that are not proved to hide padding; "" where all are.
    """

    style: str
    rows: int
    columns: int
    max_valid_num: int
    segment_max_size: tuple[int, ...]
    unpack_info: str
    dynamic_inputs: tuple[str, ...]
    mask: str
    position_ids: str
    outputs: dict[str, str]
    ragged: bool
    neighbours: str = "any"
    isolation: str = ""


@dataclass(frozen=True)
class WeightSpec:
    """Where a weight lies in the weights member, how it is stored, and the type the engine wants.

    Attributes:
        constant: False where the executable was compiled with ``constant_weights=False``: the engine takes the weight
            as an input, and a runner may replace it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    engine_dtype: str
    offset: int
    nbytes: int
    constant: bool = True


@dataclass(frozen=True)
class Manifest:
    """What the executable says of itself (``manifest.json``).

    Attributes:
        passes: the passes that made the model, in order.
        options: the compiler's options.
        versions: version of poprt, onnx and onnxruntime that compiled it.
        opaque_blobs: texts that the caller gave to the compiler to be kept with the file.
        metadata: the model's ``metadata_props``.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[WeightSpec, ...]
    packing: PackingSpec | None = None
    batch_axis: int = 0
    passes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    opaque_blobs: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def place_weights(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[int, int]]:
    """Offset and length in bytes of each array in the weights member, each aligned to 64 bytes."""
    places, end = {}, 0
    for name, array in arrays.items():
        start = end + -end % ALIGNMENT
        end = start + array.nbytes
        places[name] = (start, array.nbytes)
    return places


class Executable:
    """A compiled model, in memory or in a file.

    Args:
        path: the file to load. Its weights stay in the file and are mapped into memory when they are read.
        check_hash: whether to compare the sha256 of the graph and the weights; lengths are always checked.

    Raises:
        FileNotFoundError: there is no such file.
        NotAnExecutableError: the file is something else.
        NewerFormatError: a newer version of poprt wrote the file.
        DamagedExecutableError: the file is truncated or altered.
    """

    _mapping: mmap.mmap | None = None

    def __init__(self, path: str | Path, *, check_hash: bool = True) -> None:
        body, members, mapping = read_container(path, check_hash=check_hash)
        try:
            manifest = _manifest_from_json(body)
            weights = {spec.name: _weight_view(spec, members[_WEIGHTS]) for spec in manifest.weights}
            graph = members[_GRAPH].tobytes()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedExecutableError(f"{path}: the manifest does not describe the file: {error}") from error
        self._set(manifest, graph, weights)
        self._mapping = mapping

    @classmethod
    def build(
        cls, manifest: Manifest, graph: bytes, weights: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> Executable:
        """Make an executable in memory.

        Args:
            manifest: its ``weights`` must list exactly the given arrays, at the places of :func:`place_weights`.
            graph: the engine's ONNX graph; each weight is an initializer with external data, or an input.
            weights: the arrays; they are kept, not copied.

        Raises:
            ValueError: the manifest and the arrays do not match.
        """
        weights = dict(weights or {})
        places = place_weights(weights)
        if [spec.name for spec in manifest.weights] != list(weights):
            raise ValueError("the manifest lists other weights than those given")
        for spec in manifest.weights:
            array = weights[spec.name]
            if (spec.shape, spec.dtype) != (array.shape, array.dtype.name):
                raise ValueError(f"weight {spec.name!r}: the manifest says {spec.shape} {spec.dtype}")
            if (spec.offset, spec.nbytes) != places[spec.name]:
                raise ValueError(f"weight {spec.name!r}: the manifest gives another place than place_weights")
        made = cls.__new__(cls)
        made._set(manifest, graph, {name: _read_only(array) for name, array in weights.items()})
        return made

    def _set(self, manifest: Manifest, graph: bytes, weights: dict[str, npt.NDArray[Any]]) -> None:
        self._manifest, self._graph, self._weights = manifest, graph, weights

    def release_pages(self) -> None:
        """Give the memory of the mapped file back. The weights stay readable: they are read from the file again."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def __repr__(self) -> str:
        return f"Executable(inputs={[s.name for s in self.inputs]}, outputs={[s.name for s in self.outputs]})"

    @property
    def manifest(self) -> Manifest:
        """What the executable says of itself."""
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
    def graph(self) -> bytes:
        """The engine's ONNX graph, serialised, without its large tensors."""
        return self._graph

    def weight(self, name: str) -> npt.NDArray[Any]:
        """The weight ``name`` as it is stored: read-only, and mapped from the file where there is one.

        Raises:
            KeyError: the executable stores no such weight.
        """
        if name not in self._weights:
            raise KeyError(f"no stored weight {name!r}; there are {', '.join(self._weights) or 'none'}")
        return self._weights[name]

    def save(self, path: str | Path) -> None:
        """Write the executable; the file appears complete or not at all."""
        body = dataclasses.asdict(self._manifest)
        specs = self._manifest.weights
        size = max((spec.offset + spec.nbytes for spec in specs), default=0)
        payloads = {_GRAPH: Payload(len(self._graph), [self._graph]), _WEIGHTS: Payload(size, self._weight_chunks())}
        write_container(path, payloads, body)

    def _weight_chunks(self) -> Iterator[bytes | memoryview]:
        position = 0
        for spec in self._manifest.weights:
            yield bytes(spec.offset - position)
            yield _little_endian(self._weights[spec.name]).reshape(-1).view(np.uint8).data
            position = spec.offset + spec.nbytes


def _little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _weight_view(spec: WeightSpec, data: Bytes) -> npt.NDArray[Any]:
    if spec.dtype not in WEIGHT_DTYPES or spec.engine_dtype not in WEIGHT_DTYPES:
        raise ValueError(f"weight {spec.name!r} has the unknown type {spec.dtype!r} or {spec.engine_dtype!r}")
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if spec.nbytes != math.prod(spec.shape) * dtype.itemsize or spec.offset % ALIGNMENT:
        raise ValueError(f"weight {spec.name!r}: place and shape do not match")
    if not 0 <= spec.offset <= spec.offset + spec.nbytes <= len(data):
        raise ValueError(f"weight {spec.name!r} lies outside {_WEIGHTS}")
    view: npt.NDArray[Any] = data[spec.offset : spec.offset + spec.nbytes].view(dtype).reshape(spec.shape)
    return view


def _manifest_from_json(body: dict[str, Any]) -> Manifest:
    """Read a manifest; fields of the container itself are left out."""
    fields = {item.name: body[item.name] for item in dataclasses.fields(Manifest)}
    for name in ("inputs", "outputs"):
        fields[name] = tuple(TensorSpec(**{**item, "shape": tuple(item["shape"])}) for item in fields[name])
    fields["weights"] = tuple(WeightSpec(**{**item, "shape": tuple(item["shape"])}) for item in fields["weights"])
    fields["passes"] = tuple(fields["passes"])
    packing = fields["packing"]
    if packing is not None:
        lists = {name: tuple(packing[name]) for name in ("segment_max_size", "dynamic_inputs")}
        fields["packing"] = PackingSpec(**{**packing, **lists})
    return Manifest(**fields)
