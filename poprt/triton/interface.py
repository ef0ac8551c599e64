"""What Triton is told of a packed executable, and which executables it cannot serve.

Requests that may share a run come *ragged*: the backend lays their inputs end to end, and gives the length of each
sample. Others come as a plain batch, which Triton makes of requests of one shape alone: samples of one length are
together, or each is by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from poprt.errors import PoprtError
from poprt.executable import Executable, Manifest, PackingSpec, TensorSpec
from poprt_format.packing import ANY, NONE

#: The most bytes of padded tensors that a batch of longest samples may take where nobody says how large a batch is.
PADDED_BYTES = 1 << 30
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class TritonOptions:
    """What is chosen for Triton.

    Attributes:
        name: the model's name, a folder's.
        max_batch_size: most samples of a run; None takes as many as the pack holds, if padding them to the longest
            sample takes no more than :data:`PADDED_BYTES`.
        instances: runs side by side.
        threads: onnxruntime's threads for each instance; 0 leaves it to onnxruntime, which takes a thread a core.
    """

    name: str
    max_batch_size: int | None = None
    instances: int = 1
    threads: int = 0


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: the tensor's name.
        dtype: numpy name of its type.
        dims: its extents without the batch axis, -1 where any will do.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """What Triton is told.

    Attributes:
        ragged: whether the backend lays requests end to end.
        inputs: what a client sends, [batch, tokens] each.
        lengths: input -> the tensor in which the backend gives its length in each sample, int32 [batch, 1]; empty
            where requests are not ragged.
        outputs: what a client gets, [batch, *dims].
        by_token: the outputs with one row a token, which the graph gives as [tokens, ...] where requests are ragged.
        longest: most tokens of a sample.
        max_batch_size: most samples of a run.
    """

    ragged: bool
    inputs: tuple[Port, ...]
    lengths: dict[str, str]
    outputs: tuple[Port, ...]
    by_token: frozenset[str]
    longest: int
    max_batch_size: int


def read_interface(executable: Executable, options: TritonOptions) -> Interface:
    """What Triton is told of ``executable``.

    Raises:
        PoprtError: Triton cannot serve it, or an option is out of range; the message gives the reason.
    """
    manifest = executable.manifest
    packing = _packing(manifest)
    _check_options(options, packing)
    positions = {packing.position_ids}
    fed = [spec for spec in manifest.inputs if spec.name in packing.dynamic_inputs and spec.name not in positions]
    taken = {spec.name for spec in (*manifest.inputs, *manifest.outputs)}
    first, *others = (spec.name for spec in fed)
    ragged = packing.neighbours == ANY
    lengths = {first: packing.unpack_info, **{name: _unused(f"{name}_shape", taken) for name in others}}
    extents = _extents(executable.graph)
    return Interface(
        ragged=ragged,
        inputs=tuple(Port(spec.name, _sent_dtype(spec), (-1,)) for spec in fed),
        lengths=lengths if ragged else {},
        outputs=tuple(_output(spec, packing, extents[spec.name]) for spec in manifest.outputs),
        by_token=frozenset(name for name, kind in packing.outputs.items() if kind == "tokens"),
        longest=packing.width,
        max_batch_size=_batch_size(packing, options),
    )


def _packing(manifest: Manifest) -> PackingSpec:
    """How the model is packed; raise PoprtError where Triton cannot serve that."""
    packing = manifest.packing
    if packing is None:
        raise PoprtError("the executable is not packed: give Triton the converted ONNX model as it is")
    if packing.within_rows:
        raise PoprtError(
            "its samples share rows (insert_attention_mask), and Triton lays requests end to end: convert the model "
            "with --pack_args alone"
        )
    if not packing.ragged:
        why = "samples have several segments" if len(packing.segment_max_size) > 1 else "its sequence length is fixed"
        raise PoprtError(f"its graph takes only packs of {packing.rows} x {packing.columns} tokens, because {why}")
    if manifest.custom_ops:
        raise PoprtError(
            f"it needs the operators {', '.join(manifest.custom_ops)}, which Triton's onnxruntime does not have"
        )
    inputs = {spec.name for spec in manifest.inputs}
    others = sorted(inputs - {*packing.dynamic_inputs, packing.unpack_info})
    if others:
        raise PoprtError(f"input {others[0]!r} has no value for each token, and Triton cannot share it between samples")
    _check_tokens(manifest, packing)
    return packing


def _check_tokens(manifest: Manifest, packing: PackingSpec) -> None:
    """Raise PoprtError where a token is more than one value: Triton counts the values that it lays end to end."""
    for spec in manifest.inputs:
        if spec.name in packing.dynamic_inputs and len(spec.shape) > 2:
            raise PoprtError(
                f"input {spec.name!r} holds an array {list(spec.shape[2:])} a token, and the graph for Triton takes "
                "one value a token: serve it with `poprt serve`"
            )


def _check_options(options: TritonOptions, packing: PackingSpec) -> None:
    if not _NAME.fullmatch(options.name):
        raise PoprtError(
            f"name is {options.name!r}, expected letters, digits, '_', '-' and '.', as it becomes a folder: give --name"
        )
    if options.instances < 1 or options.threads < 0:
        raise PoprtError(f"instances={options.instances}, threads={options.threads}: expected 1 or more, and 0 or more")
    most = 1 if packing.neighbours == NONE else packing.max_valid_num
    if options.max_batch_size is not None and not 1 <= options.max_batch_size <= most:
        why = f" ({packing.isolation})" if packing.neighbours == NONE and packing.isolation else ""
        raise PoprtError(f"max_batch_size is {options.max_batch_size}, expected 1 to {most}{why}")


def _batch_size(packing: PackingSpec, options: TritonOptions) -> int:
    if options.max_batch_size is not None:
        return options.max_batch_size
    if packing.neighbours == NONE:
        return 1
    one = packing.padded_bytes(1, packing.width)
    return max(1, min(packing.max_valid_num, PADDED_BYTES // one if one else packing.max_valid_num))


def _sent_dtype(spec: TensorSpec) -> str:
    """What clients send: whole numbers as int64, which tokenizers give; packing made int32 of them."""
    return "int64" if spec.engine_dtype == "int32" else spec.engine_dtype


def _output(spec: TensorSpec, packing: PackingSpec, extents: list[int]) -> Port:
    """An output as a client gets it; raise PoprtError where its size depends on the other samples of a run."""
    by_token = packing.outputs[spec.name] == "tokens"
    rest = extents[2 if by_token else 1 :]
    if not extents or -1 in rest or packing.token_axes.get(spec.name):
        raise PoprtError(
            f"output {spec.name!r}: its size depends on the longest sample of a run, so Triton cannot divide it. "
            f"Convert the model without it (--remove_outputs {spec.name})"
        )
    return Port(spec.name, spec.engine_dtype, (-1, *rest) if by_token else tuple(rest))


def _extents(graph: bytes) -> dict[str, list[int]]:
    """The shape of each output in the engine's graph, -1 where an extent is open; empty where the rank is open."""
    outputs = onnx.load_model_from_string(graph).graph.output
    return {
        item.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in item.type.tensor_type.shape.dim]
        for item in outputs
    }


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
