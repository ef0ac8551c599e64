"""Compile a model for the engine: the steps, in order."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from passes.check.explain import why_invalid
from passes.errors import RewriteError
from passes.fusion.erf_gelu_pattern import ErfGeluPattern
from poprt.compiler.cache import cached
from poprt.compiler.fuse_int8 import fuse_int8
from poprt.compiler.head_gathers import gather_heads
from poprt.compiler.id_limits import id_limits
from poprt.compiler.lower_half import lower_half, uses_half
from poprt.compiler.lower_int8 import unsign_weights
from poprt.compiler.normalise import (
    cast_around_narrow_arithmetic,
    drop_unread_initializers,
    keep_outputs,
    mend_types,
    name_nodes,
)
from poprt.compiler.operators import attach_bodies
from poprt.compiler.options import CompilerOptions
from poprt.compiler.progress import Progress
from poprt.compiler.ragged import lower_packing
from poprt.compiler.source import ModelLike, Source, read_model
from poprt.compiler.validate import validate
from poprt.compiler.versions import versions
from poprt.engine.cpu import lacks_int8_dot_products
from poprt.engine.providers import has_fast_half
from poprt.errors import CompileError
from poprt.executable import Executable, Manifest, PackingSpec, TensorSpec, WeightSpec, place_weights

logger = logging.getLogger("poprt")

#: Where the converter notes the passes that made a model: a JSON list, in the model's metadata.
PASSES_KEY = "poprt.passes"


class Compiler:
    """Turns a model into an executable."""

    @staticmethod
    def compile(
        model: ModelLike, outputs: Sequence[str] | None = None, options: CompilerOptions | None = None
    ) -> Executable:
        """Compile ``model``.

        Args:
            model: the bytes of an ONNX model, its path, or a ModelProto (which is not changed). External data beside a
                path is mapped into memory, not read: leave the file as it is while the executable is in use.
            outputs: names of the outputs to keep, in the order wanted; None keeps all of them.
            options: see :class:`CompilerOptions`.

        Raises:
            CompileError: the model cannot be read, an output does not exist, or the engine cannot run the model.
        """
        options = options or CompilerOptions()
        options.announce()
        with Progress(options.show_compilation_progress_bar) as progress:
            progress.step("reading the model")
            source = read_model(model, constant_weights=options.constant_weights)
            chosen = _chosen_outputs(source.model, outputs)
            with blaming(source.model):
                return cached(source, chosen, options, lambda: _compile(source, chosen, options, progress))

    @staticmethod
    def compile_and_export(
        model: ModelLike,
        outputs: Sequence[str] | None,
        filename: str | Path,
        options: CompilerOptions | None = None,
    ) -> None:
        """Compile ``model`` and write the executable to ``filename``."""
        Compiler.compile(model, outputs, options).save(filename)


@contextmanager
def blaming(model: onnx.ModelProto) -> Iterator[None]:
    """Raise a CompileError in place of an unexpected exception where onnx refuses ``model``, as it came.

    An exception on a valid model is a bug of ours and passes.
    """
    given = onnx.ModelProto()
    given.CopyFrom(model)  # without weights; the steps work in place
    try:
        yield
    except (CompileError, RewriteError):
        raise
    except Exception as error:
        reason = why_invalid(given)
        if reason is None:
            raise
        logger.debug("compiling failed on a model that is not valid", exc_info=error)
        raise CompileError(f"the model is not valid: {reason}") from error


def _chosen_outputs(model: onnx.ModelProto, outputs: Sequence[str] | None) -> list[str]:
    known = [item.name for item in model.graph.output]
    if not known:
        raise CompileError("the model has no outputs; is it an ONNX model?")
    if outputs is None:
        return known
    unknown = [name for name in outputs if name not in known]
    if unknown or not outputs:
        asked = ", ".join(map(repr, unknown)) or "nothing"
        raise CompileError(f"outputs: {asked} asked for; the model's outputs are {', '.join(known)}")
    return list(dict.fromkeys(outputs))


def _compile(source: Source, outputs: list[str], options: CompilerOptions, progress: Progress) -> Executable:
    progress.step("lowering")
    model = _normalised(source.model, outputs)
    limits = id_limits(model)
    inputs = [replace(_tensor_spec(item), id_limit=limits.get(item.name, 0)) for item in model.graph.input]
    declared = inputs, [_tensor_spec(item) for item in model.graph.output]
    model, packing = lower_packing(model)
    if packing is not None:
        kept = {name: kind for name, kind in packing.outputs.items() if name in outputs}
        packing = replace(packing, outputs=kept)
    if uses_half(model) and not has_fast_half():
        logger.debug("%d float16 places lowered to float32", lower_half(model))
    model = gather_heads(model)
    model = ErfGeluPattern().run(model)  # the engine knows GELU in fewer spellings than exporters have
    if lacks_int8_dot_products() and unsign_weights(model, source.weights):
        logger.warning(
            "this CPU has no 8-bit dot products: int8 weights are stored unsigned, exact here and slow on other CPUs"
        )
    logger.debug("%d quantisations and %d integer products fused", *fuse_int8(model))
    drop_unread_initializers(model)
    progress.step("placing the weights")
    manifest = _manifest(source, model, declared, packing, options)
    arrays = {spec.name: source.weights[spec.name] for spec in manifest.weights}
    _make_inputs(model, {spec.name for spec in manifest.weights if not spec.constant})
    executable = Executable.build(manifest, model.SerializeToString(deterministic=True), arrays)
    progress.step("asking the engine")
    validate(model, executable)
    return executable


def _normalised(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """Bring the model into a form that the engine takes, before anything depends on the engine."""
    keep_outputs(model, outputs)
    model = attach_bodies(model)
    name_nodes(model)
    cast_around_narrow_arithmetic(model)
    mend_types(model)
    return model


def _tensor_spec(item: onnx.ValueInfoProto) -> TensorSpec:
    """A declared input or output; the engine's type is the declared one until lowering says otherwise."""
    held = item.type.tensor_type
    if not item.type.HasField("tensor_type") or not held.elem_type:
        raise CompileError(f"{item.name!r} is not a tensor of known type; the runtime takes and gives tensors only")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(held.elem_type)).name
    if dtype == "object":
        raise CompileError(f"{item.name!r} holds strings; the runtime takes and gives numbers only")
    return TensorSpec(item.name, tuple(max(dim.dim_value, 0) for dim in held.shape.dim), dtype, dtype)


def _manifest(
    source: Source,
    model: onnx.ModelProto,
    declared: tuple[list[TensorSpec], list[TensorSpec]],
    packing: PackingSpec | None,
    options: CompilerOptions,
) -> Manifest:
    metadata = {item.key: item.value for item in model.metadata_props}
    inputs, outputs = declared
    return Manifest(
        inputs=_with_engine_types(inputs, model.graph.input),
        outputs=_with_engine_types(outputs, model.graph.output),
        weights=_weight_specs(source, model),
        packing=packing,
        passes=_passes_run(metadata.get(PASSES_KEY, "[]")),
        options=options.to_note(),
        versions=versions(),
        opaque_blobs=dict(options.opaque_blobs),
        metadata=metadata,
    )


def _passes_run(text: str) -> tuple[str, ...]:
    """The value of :data:`PASSES_KEY`."""
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CompileError(f"the model's metadata {PASSES_KEY!r} are damaged: no list of names; remove them")
    return tuple(names)


def _with_engine_types(specs: list[TensorSpec], values: Any) -> tuple[TensorSpec, ...]:
    engine = {item.name: _tensor_spec(item).dtype for item in values}
    return tuple(replace(spec, engine_dtype=engine[spec.name]) for spec in specs)


def _weight_specs(source: Source, model: onnx.ModelProto) -> tuple[WeightSpec, ...]:
    """The stored weights that the engine's graph still reads, in the order of its initializers."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name in source.weights]
    places = place_weights({tensor.name: source.weights[tensor.name] for tensor in kept})
    specs = []
    for tensor in kept:
        array = source.weights[tensor.name]
        wanted = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
        offset, nbytes = places[tensor.name]
        constant = tensor.name not in source.variable
        specs.append(WeightSpec(tensor.name, array.shape, array.dtype.name, wanted, offset, nbytes, constant))
    return tuple(specs)


def _make_inputs(model: onnx.ModelProto, names: set[str]) -> None:
    """Turn the initializers ``names`` into inputs of the engine's graph."""
    for index in reversed(range(len(model.graph.initializer))):
        tensor = model.graph.initializer[index]
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            del model.graph.initializer[index]
