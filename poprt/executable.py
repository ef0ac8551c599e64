"""The executable: one zip file with a manifest, the engine's graph and its weights.

Members are stored, not compressed, and start on 64-byte boundaries, so ``unzip -l`` works and the weights can be
memory-mapped. Loading runs nothing from the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 1


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the caller sees it.

    Attributes:
        name: the tensor's name.
        shape: declared extents; 0 where the model leaves one open.
        dtype: numpy name of the declared type ("float16").
        engine_dtype: numpy name of the type that the engine's graph takes or gives ("float32" where fp16 was lowered).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    engine_dtype: str


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


@dataclass(frozen=True)
class WeightSpec:
    """Where a weight lies in the weights member, how it is stored, and the type the engine wants."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    engine_dtype: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Manifest:
    """What the executable says of itself (``manifest.json``)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[WeightSpec, ...]
    packing: PackingSpec | None = None
    batch_axis: int = 0
    passes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    opaque_blobs: dict[str, str] = field(default_factory=dict)
