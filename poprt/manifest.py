"""What an executable says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from poprt.fused_names import in_model
from poprt_format.packing import Packing

#: The engines that graphs are lowered for. The first is the default, and needs nothing else.
ENGINES = (ONNXRUNTIME, OPENVINO) = ("onnxruntime", "openvino")
#: What an engine may compute in.
COMPUTE_TYPES = ("float32", "bfloat16")

#: Numpy names of the types that tensors may have in an engine.
WEIGHT_DTYPES = frozenset(
    {"float16", "float32", "float64", "bool"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
#: Those that the weights member may hold. A bfloat16 is widened when it is loaded.
STORED_DTYPES = WEIGHT_DTYPES | {"bfloat16"}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the caller sees it.

    Attributes:
        name: the tensor's name.
        shape: declared extents; 0 where the model leaves one open.
        dtype: numpy name of the declared type ("float16").
        engine_dtype: numpy name of the type that the engine's graph takes or gives ("float32" where fp16 was lowered).
        id_limit: an input whose values are rows of a table (token ids) takes 0 to ``id_limit - 1``; 0 is no limit.
        any_rank: the model does not say the rank, so every shape will do; ``shape`` is empty then.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    engine_dtype: str
    id_limit: int = 0
    any_rank: bool = False


@dataclass(frozen=True)
class PackingSpec(Packing):
    """How requests of many lengths share one run of the engine's graph.

    Attributes:
        ragged: the engine's graph takes [1, T] for T real tokens and [n, segments] lengths, and unpacks only to the
            longest sample present; otherwise it takes the declared shapes alone.
        equal_lengths_cheaper: a pack whose samples are of one length and mask nothing costs less than another of as
            many samples, tokens and places: its attention keeps no scores, so its memory grows with the tokens, that
            of another pack with samples times longest squared. A sample alone is such a pack.
        full_pair_bytes: what ``pair_bytes`` is for such a pack: 0 where no attention keeps scores.
        width_multiple: the multiples to which the graph unpacks; see :meth:`unpacked_width`.
    """

    ragged: bool = field(kw_only=True)
    equal_lengths_cheaper: bool = field(default=False, kw_only=True)
    full_pair_bytes: int = field(default=0, kw_only=True)
    width_multiple: int = field(default=1, kw_only=True)

    def request_shape(self, spec: TensorSpec, length: int) -> tuple[int, ...]:
        """The shape in which a request of ``length`` tokens gives an input: [L, ...], [L, L], a row, or whole."""
        if spec.name in self.dynamic_inputs:
            return (length, *spec.shape[2:])
        if spec.name in self.pair_inputs:
            return self.pair_shape(spec.name, spec.shape, length)[1:]
        return spec.shape[1:] if spec.name in self.sample_inputs else spec.shape

    def unpacked_width(self, longest: int) -> int:
        """Places to which a ragged graph unpacks each sample of a pack whose longest has ``longest`` tokens.

        That is the longest itself, or the next of ``width_multiple`` where it is half way there: by 16, 23 stays 23
        and 24 becomes 32. It is never beyond the longest sample that the executable takes.
        """
        nearest = (longest + self.width_multiple // 2) // self.width_multiple * self.width_multiple
        return max(longest, min(nearest, self.segment_max_size[0]))

    def padded_bytes(self, samples: int, longest: int, full: bool = False) -> int:
        """What a pack of samples padded to ``longest`` tokens holds in memory at once, beside the packed side.

        Args:
            full: whether all samples are of that length and mask nothing.
        """
        full = full and self.equal_lengths_cheaper
        longest = self.unpacked_width(longest)
        pairs = self.places(longest) ** 2
        return samples * (longest * self.cell_bytes + pairs * (self.full_pair_bytes if full else self.pair_bytes))


@dataclass(frozen=True)
class PackOperators:
    """The operators of packing in a graph whose model says nothing of packing: a script wrote them by hand.

    Attributes:
        apart_in_rows: AttentionMask keeps the samples of a row apart.
        masks: the inputs that AttentionMask reads; empty where it reads something that is computed.
        lengths: the inputs that Unpack and Repack read.
        max_valid_num, segment_max_size: as Unpack has them; 0 and nothing where there is none.
        unpacked: the outputs with a row a sample.
    """

    apart_in_rows: bool
    masks: tuple[str, ...]
    lengths: tuple[str, ...]
    max_valid_num: int
    segment_max_size: tuple[int, ...]
    unpacked: tuple[str, ...]


@dataclass(frozen=True)
class WeightSpec:
    """Where a weight lies in the weights member, how it is stored, and the type the engine wants.

    Attributes:
        constant: False where the executable was compiled with ``constant_weights=False``: the engine takes the weight
            as an input, and a runner may replace it.
        engines: the engines whose graphs read it; empty where all do.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    engine_dtype: str
    offset: int
    nbytes: int
    constant: bool = True
    engines: tuple[str, ...] = ()


@dataclass(frozen=True)
class OtherGraph:
    """A further graph of an executable: the same model, lowered for another engine.

    Attributes:
        equal_lengths_cheaper, full_pair_bytes, pair_bytes, width_multiple: as for ``PackingSpec``, of this graph.
    """

    equal_lengths_cheaper: bool = False
    full_pair_bytes: int = 0
    pair_bytes: int = 0
    width_multiple: int = 1


@dataclass(frozen=True)
class Manifest:
    """What the executable says of itself (``manifest.json``).

    Attributes:
        batch_axes: the axis of each input and output that counts samples (of a model packed within rows: its rows),
            where the graph takes any number of them; empty where it holds the batch size that it declares.
        batch_held: why it does; "" where it does not, and for models packed across rows or with a final Unpack, whose
            packs are another matter.
        passes: the passes that made the model, in order.
        options: the compiler's options.
        versions: version of poprt, onnx and onnxruntime that compiled it.
        opaque_blobs: texts that the caller gave to the compiler to be kept with the file.
        metadata: the model's ``metadata_props``.
        custom_ops: operators of the graph that onnxruntime does not have, as "domain.Name".
        custom_libraries: what the libraries are called that it was compiled with; a runner has to be given them, no
            executable has one loaded.
        shared_scales: the nodes that quantise with one scale for all samples of a run, by operator and name: an answer
            then moves with its company (a tenth of its range and more was seen). Empty where there is none.
        pack_operators: what the graph shows of packing where ``packing`` is None.
        engine: what the main graph, and ``packing``, were lowered for; one of ``ENGINES``.
        other_graphs: graphs for further engines, by engine. They share the weights.
        compute: what an engine may compute in where it can: "float32", or "bfloat16" for all but what it keeps exact.
        activation_group: columns of an activation that share a scale in products of integers, where the engine itself
            quantises activations; 0 where it does not.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[WeightSpec, ...]
    packing: PackingSpec | None = None
    batch_axis: int = 0
    batch_axes: dict[str, int] = field(default_factory=dict)
    batch_held: str = ""
    passes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    opaque_blobs: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    custom_ops: tuple[str, ...] = ()
    custom_libraries: tuple[str, ...] = ()
    shared_scales: tuple[str, ...] = ()
    pack_operators: PackOperators | None = None
    engine: str = ONNXRUNTIME
    other_graphs: dict[str, OtherGraph] = field(default_factory=dict)
    compute: str = "float32"
    activation_group: int = 0

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that there is a graph for, the main graph's first."""
        return (self.engine, *self.other_graphs)

    def for_engine(self, engine: str) -> Manifest:
        """The manifest of the graph for ``engine`` alone.

        Raises:
            KeyError: there is no graph for it.
        """
        weights = tuple(spec for spec in self.weights if not spec.engines or engine in spec.engines)
        alone = replace(self, engine=engine, other_graphs={}, weights=weights)
        if engine == self.engine:
            return alone
        other = self.other_graphs[engine]
        return replace(alone, packing=self.packing and replace(self.packing, **vars(other)))

    def batch_axis_of(self, name: str) -> int:
        """The axis of an input or output that counts samples, if it has one."""
        return self.batch_axes.get(name, self.batch_axis)


@dataclass(frozen=True)
class FusedManifest:
    """What an executable of several models says of itself.

    Attributes:
        models: what each of them says, in order; its tensors have their plain names.
    """

    models: tuple[Manifest, ...]

    def union(self) -> Manifest:
        """One manifest with the inputs and outputs of all, as callers name them: ``graph0/x``.

        What is the same for all (options, versions, texts of the caller) is that of the first.
        """
        first = self.models[0]
        return Manifest(
            inputs=tuple(_of_model(index, spec) for index, one in enumerate(self.models) for spec in one.inputs),
            outputs=tuple(_of_model(index, spec) for index, one in enumerate(self.models) for spec in one.outputs),
            weights=(),
            options=first.options,
            versions=first.versions,
            opaque_blobs=first.opaque_blobs,
        )


def _of_model(index: int, spec: TensorSpec) -> TensorSpec:
    return replace(spec, name=in_model(index, spec.name))
