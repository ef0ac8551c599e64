"""What the fields of a manifest say of each other, of the file, and how much memory they may ask for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from poprt.container import ALIGNMENT
from poprt.errors import DamagedExecutableError
from poprt.manifest import (
    COMPUTE_TYPES,
    ENGINES,
    WEIGHT_DTYPES,
    Manifest,
    PackingSpec,
    PackOperators,
    TensorSpec,
    WeightSpec,
)
from poprt.manifest_schema import wrong
from poprt_format.packing import ACROSS_ROWS, NEIGHBOURS, OUTPUT_LAYOUTS

#: The most tokens, samples, or tokens of a sample that one pack may declare.
MOST_TOKENS = 1 << 22
#: A declared input or output may take this many bytes, and more for a large file: a runner allocates it as declared.
TENSOR_ALLOWANCE = 256 << 20
TENSOR_BYTES_A_FILE_BYTE = 256

#: Inputs and outputs may hold texts besides: onnxruntime takes and gives them as objects.
_TENSOR_DTYPES = WEIGHT_DTYPES | {"object"}
_MOST_AXES = 32  # numpy 1 takes no more


def check_manifest(manifest: Manifest, *, file_bytes: int, weight_bytes: int) -> None:
    """Check that a manifest can be served from its file.

    Args:
        manifest: what :func:`poprt.manifest_schema.read_manifest` made.
        file_bytes: length of the file. No declared tensor may be larger than ``TENSOR_ALLOWANCE`` and
            ``TENSOR_BYTES_A_FILE_BYTE`` times that.
        weight_bytes: length of the weights member.

    Raises:
        DamagedExecutableError: a field contradicts another one or the file, or asks for too much memory.
    """
    both: dict[str, tuple[TensorSpec, ...]] = {"inputs": manifest.inputs, "outputs": manifest.outputs}
    for kind, specs in both.items():
        if not specs:
            raise wrong(kind, [], "at least one")
        _check_names(kind, (spec.name for spec in specs))
        for spec in specs:
            _check_tensor(kind, spec, TENSOR_ALLOWANCE + TENSOR_BYTES_A_FILE_BYTE * file_bytes)
    _check_names("weights", (spec.name for spec in manifest.weights))
    fed = [*(spec.name for spec in manifest.inputs), *(weight.name for weight in manifest.weights)]
    _check_names("inputs and weights", fed)
    _check_engines(manifest)
    if manifest.batch_axis >= _MOST_AXES:
        raise wrong("batch_axis", manifest.batch_axis, f"less than {_MOST_AXES}")
    _check_batch_axes(manifest)
    end = 0
    for weight in manifest.weights:
        end = _check_weight(weight, end, weight_bytes)
    if manifest.packing is not None:
        _check_packing(manifest, manifest.packing)
    if manifest.pack_operators is not None:
        _check_operators(manifest, manifest.pack_operators)


def _check_operators(manifest: Manifest, operators: PackOperators) -> None:
    if manifest.packing is not None:
        raise wrong("pack_operators", operators, "nothing beside packing")
    for field, specs in (("masks", manifest.inputs), ("lengths", manifest.inputs), ("unpacked", manifest.outputs)):
        names = [spec.name for spec in specs]
        _check_names(f"pack_operators.{field}", getattr(operators, field))
        for name in getattr(operators, field):
            if name not in names:
                raise wrong(f"pack_operators.{field}", name, f"one of {names}")
    sizes = operators.segment_max_size
    if 0 in sizes or sum(sizes) > MOST_TOKENS:
        raise wrong(
            "pack_operators.segment_max_size", list(sizes), f"sizes of 1 or more, together at most {MOST_TOKENS}"
        )
    if operators.max_valid_num > MOST_TOKENS:
        raise wrong("pack_operators.max_valid_num", operators.max_valid_num, f"at most {MOST_TOKENS}")


def _check_engines(manifest: Manifest) -> None:
    """The engines are known ones, each with one graph, and each weight is read by some of them."""
    engines = manifest.engines
    if not set(engines) <= set(ENGINES) or len(set(engines)) < len(engines):
        raise wrong("engine", list(engines), f"different ones of {', '.join(ENGINES)}")
    if manifest.compute not in COMPUTE_TYPES:
        raise wrong("compute", manifest.compute, " or ".join(COMPUTE_TYPES))
    for weight in manifest.weights:
        if not set(weight.engines) <= set(engines):
            raise wrong(f"weights.{weight.name}.engines", list(weight.engines), f"some of {', '.join(engines)}")


def _check_batch_axes(manifest: Manifest) -> None:
    if not manifest.batch_axes:
        return
    specs = {spec.name: spec for spec in (*manifest.inputs, *manifest.outputs)}
    packing = manifest.packing
    if set(manifest.batch_axes) != set(specs) or (packing is not None and not packing.rows_apart):
        expected = "all inputs and outputs of a model that is not packed, or packed within rows"
        raise wrong("batch_axes", sorted(manifest.batch_axes), expected)
    sizes = set()
    for name, axis in manifest.batch_axes.items():
        if axis >= len(specs[name].shape):
            raise wrong(f"batch_axes.{name}", axis, f"an axis of {list(specs[name].shape)}")
        sizes.add(specs[name].shape[axis])
    if len(sizes) > 1 or not min(sizes):
        raise wrong("batch_axes", manifest.batch_axes, f"axes of one extent, not of {sorted(sizes)}")


def _check_names(field: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            raise wrong(field, name, "names that are not empty and not given twice")
        seen.add(name)


def _check_tensor(kind: str, spec: TensorSpec, most_bytes: int) -> None:
    field = f"{kind}.{spec.name}"
    _check_dtypes(field, (spec.dtype, spec.engine_dtype))
    _check_axes(field, spec.shape)
    if spec.any_rank and spec.shape:
        raise wrong(f"{field}.shape", list(spec.shape), "none, as the tensor may have any rank")
    size = max(np.dtype(spec.dtype).itemsize, np.dtype(spec.engine_dtype).itemsize)
    if _product(spec.shape) * size > most_bytes:
        raise wrong(f"{field}.shape", list(spec.shape), f"at most {most_bytes} bytes for a file of this size")


def _check_dtypes(field: str, names: Iterable[str]) -> None:
    for name in names:
        if name not in _TENSOR_DTYPES:
            raise wrong(f"{field}.dtype", name, f"one of {', '.join(sorted(_TENSOR_DTYPES))}")


def _check_axes(field: str, shape: Sequence[int]) -> None:
    if len(shape) > _MOST_AXES:
        raise wrong(f"{field}.shape", list(shape), f"at most {_MOST_AXES} axes")


def _product(shape: Sequence[int]) -> int:
    """The elements of a tensor, an open or empty axis counted as one."""
    return math.prod(max(extent, 1) for extent in shape)


def _check_weight(spec: WeightSpec, end: int, weight_bytes: int) -> int:
    """Check a weight that must start at ``end`` or later; give the place where it ends."""
    label = f"weight {spec.name!r}"
    # Any other pair would take more memory than the file has, or change what the weight means.
    widened = spec.dtype in ("bfloat16", "float16") and spec.engine_dtype == "float32"
    if spec.engine_dtype not in WEIGHT_DTYPES or not (widened or spec.dtype == spec.engine_dtype):
        raise DamagedExecutableError(
            f"manifest field 'weights': {label} is stored as {spec.dtype!r} and served as {spec.engine_dtype!r}; "
            "expected one known type for both, or a half float and float32"
        )
    _check_axes(f"weights.{spec.name}", spec.shape)
    if spec.nbytes != math.prod(spec.shape) * np.dtype(spec.dtype).itemsize or _product(spec.shape) > 1 << 48:
        raise DamagedExecutableError(
            f"manifest field 'weights': {label} has the shape {list(spec.shape)} of {spec.dtype} in {spec.nbytes} bytes"
        )
    if spec.offset % ALIGNMENT or not end <= spec.offset <= spec.offset + spec.nbytes <= weight_bytes:
        raise DamagedExecutableError(
            f"manifest field 'weights': {label} lies at {spec.offset} with {spec.nbytes} bytes; expected a place of "
            f"its own among {weight_bytes} bytes, after the weight before it, at a multiple of {ALIGNMENT}"
        )
    return spec.offset + spec.nbytes


def _check_packing(manifest: Manifest, packing: PackingSpec) -> None:
    if packing.layout not in OUTPUT_LAYOUTS:
        raise wrong("packing.layout", packing.layout, f"one of {', '.join(OUTPUT_LAYOUTS)}")
    if packing.neighbours not in NEIGHBOURS:
        raise wrong("packing.neighbours", packing.neighbours, f"one of {', '.join(NEIGHBOURS)}")
    _check_extents(packing)
    if packing.within_rows and (packing.ragged or len(packing.segment_max_size) > 1):
        raise wrong("packing.layout", packing.layout, f"{ACROSS_ROWS!r} where it is ragged or has several segments")
    if packing.ragged and len(packing.segment_max_size) > 1:
        raise wrong("packing.ragged", packing.ragged, "false where a sample has several segments")
    if packing.equal_lengths_cheaper and not packing.ragged:
        raise wrong("packing.equal_lengths_cheaper", True, "false where it is not ragged")
    for name, multiple in {
        "packing": packing.width_multiple,
        **{f"other_graphs.{engine}": other.width_multiple for engine, other in manifest.other_graphs.items()},
    }.items():
        if multiple < 1 or (multiple > 1 and not packing.ragged):
            raise wrong(f"{name}.width_multiple", multiple, "1 or more, and 1 where it is not ragged")
    _check_subsampling(packing)
    _check_packed_inputs(packing, {spec.name: spec for spec in manifest.inputs})
    outputs = {spec.name: spec for spec in manifest.outputs}
    if set(packing.outputs) != set(outputs):
        raise wrong("packing.outputs", sorted(packing.outputs), f"the outputs, {sorted(outputs)}")
    for name, kind in packing.outputs.items():
        _check_packed_output(packing, outputs[name], kind)


def _check_extents(packing: PackingSpec) -> None:
    sizes = packing.segment_max_size
    if not sizes or min(sizes) < 1 or sum(sizes) > MOST_TOKENS:
        raise wrong("packing.segment_max_size", list(sizes), f"sizes of 1 or more, together at most {MOST_TOKENS}")
    for name, value in (("rows", packing.rows), ("columns", packing.columns), ("max_valid_num", packing.max_valid_num)):
        if not 1 <= value <= MOST_TOKENS:
            remedy = " (an input was left open: convert the model with --input_shape)" if value == 0 else ""
            raise wrong(f"packing.{name}", value, f"1 to {MOST_TOKENS}{remedy}")
    for pair, product in (
        ("rows x columns", packing.rows * packing.columns),
        ("max_valid_num x segments", packing.max_valid_num * len(sizes)),
    ):
        if product > MOST_TOKENS:
            raise wrong(f"packing.{pair}", product, f"at most {MOST_TOKENS}")


def _check_subsampling(packing: PackingSpec) -> None:
    expected = f"a window and a stride of 1 to {MOST_TOKENS}, and a pad of 0 to {MOST_TOKENS}"
    values = packing.subsampling
    if len(values) != 3 or max(values) > MOST_TOKENS or min(values[:2]) < 1 or packing.places(packing.width) < 1:
        raise wrong("packing.subsampling", list(values), f"{expected}, of which the longest sample leaves something")
    if packing.subsampled and not packing.ragged:
        raise wrong("packing.subsampling", list(values), "[1, 1, 0] where the graph takes declared shapes alone")


def _check_packed_inputs(packing: PackingSpec, inputs: dict[str, TensorSpec]) -> None:
    dynamic = packing.dynamic_inputs
    if not dynamic:
        raise wrong("packing.dynamic_inputs", [], "at least one")
    of_samples = (*packing.sample_inputs, *packing.pair_inputs)
    roles = (*dynamic, *of_samples, *packing.run_inputs, *filter(None, [packing.unpack_info]))
    _check_names("packing: inputs of tokens, samples, pairs, runs and lengths", roles)
    for name in dynamic:
        _check_rows("packing.dynamic_inputs", name, inputs, (packing.rows, packing.columns))
    for name in packing.sample_inputs:
        _check_rows("packing.sample_inputs", name, inputs, (packing.max_valid_num,))
    for name, axes in packing.pair_inputs.items():
        _check_pairs(packing, name, axes, inputs)
    for name in packing.run_inputs:
        spec = _spec("packing.run_inputs", name, inputs)
        _check_numbers("packing.run_inputs", name, inputs, "biuf", spec.shape)
    if packing.sample_inputs and not packing.unpack_info:
        raise wrong("packing.sample_inputs", list(packing.sample_inputs), "none where nothing is unpacked")
    if packing.within_rows and packing.mask in dynamic:  # it numbers the samples of a row
        _check_numbers("packing.mask", packing.mask, inputs, "biuf", (packing.rows, packing.columns))
    if packing.mask not in dynamic and (packing.mask or packing.within_rows):
        raise wrong("packing.mask", packing.mask, f"one of the dynamic inputs, {list(dynamic)}")
    if packing.position_ids and packing.position_ids not in dynamic:
        raise wrong("packing.position_ids", packing.position_ids, f"'' or one of the dynamic inputs, {list(dynamic)}")
    if packing.unpack_info or not packing.within_rows:
        lengths = (packing.max_valid_num, len(packing.segment_max_size))
        _check_numbers("packing.unpack_info", packing.unpack_info, inputs, "iu", lengths)


def _check_pairs(packing: PackingSpec, name: str, axes: Sequence[int], inputs: dict[str, TensorSpec]) -> None:
    field = f"packing.pair_inputs.{name}"
    spec = _spec(field, name, inputs)
    if len(axes) != 2 or not 0 < axes[0] < axes[1] < len(spec.shape):
        raise wrong(field, list(axes), f"two axes of {list(spec.shape)} behind the first, in order")
    _check_rows(field, name, inputs, (packing.max_valid_num,))
    if spec.shape != packing.pair_shape(name, spec.shape, packing.width):
        raise wrong(field, list(spec.shape), f"the extent {packing.width} on the axes {list(axes)}")
    if packing.within_rows or len(packing.segment_max_size) > 1 or packing.subsampled:
        raise wrong(field, list(axes), f"{ACROSS_ROWS!r}, one segment, and a place of the answer for each token")


def _spec(field: str, name: str, inputs: dict[str, TensorSpec]) -> TensorSpec:
    spec = inputs.get(name)
    if spec is None or spec.any_rank:
        raise wrong(field, name, f"one of the inputs, {sorted(inputs)}, of a known rank")
    return spec


def _check_rows(field: str, name: str, inputs: dict[str, TensorSpec], lead: tuple[int, ...]) -> None:
    """Check an input of ``lead`` and fixed extents behind: what a token or a sample holds."""
    rest = _spec(field, name, inputs).shape[len(lead) :]
    if 0 in rest:
        raise wrong(field, f"{name} {list(inputs[name].shape)}", "fixed extents of what a token or a sample holds")
    _check_numbers(field, name, inputs, "biuf", (*lead, *rest))


def _check_numbers(field: str, name: str, inputs: dict[str, TensorSpec], kinds: str, shape: tuple[int, ...]) -> None:
    spec = _spec(field, name, inputs)
    if spec.shape != shape or np.dtype(spec.dtype).kind not in kinds or np.dtype(spec.engine_dtype).kind not in kinds:
        raise wrong(field, f"{name} {spec.dtype}{list(spec.shape)}", f"numbers of shape {list(shape)}")


def _check_packed_output(packing: PackingSpec, spec: TensorSpec, kind: str) -> None:
    layouts = OUTPUT_LAYOUTS[packing.layout] if packing.unpack_info else ("packed",)
    if kind not in layouts:
        raise wrong(f"packing.outputs.{spec.name}", kind, f"one of {', '.join(sorted(layouts))}")
    lead = {
        "tokens": (packing.max_valid_num, packing.places(packing.width) if packing.ragged else packing.width),
        "sample": (packing.max_valid_num,),
        "packed": (packing.rows, packing.columns),
    }[kind]
    extents = itertools.zip_longest(lead, spec.shape[: len(lead)], fillvalue=-1)
    if any(extent != declared for declared, extent in extents):
        raise wrong(f"outputs.{spec.name}.shape", list(spec.shape), f"{list(lead)} first, as its samples are packed")
