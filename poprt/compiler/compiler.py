"""Compile a model for the engine: the steps, in order."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from passes.base import GraphPass
from passes.batch.open_batch import OpenBatch
from passes.check.explain import why_invalid
from passes.errors import RewriteError
from passes.fusion.erf_gelu_pattern import ErfGeluPattern
from passes.ipu_operators import AttachBodies
from passes.manager import PassManager
from passes.parted import PartedModel
from passes.precision.shared_scales import shared_scales
from passes.precision.unsign_dequantised import UnsignDequantised
from passes.precision.unsign_weights import UnsignWeights
from poprt.compiler.cache import cached
from poprt.compiler.feedable import check_feedable
from poprt.compiler.full_packs.fuse import FuseFullPacks, with_full_packs
from poprt.compiler.fuse_int8 import FuseInt8
from poprt.compiler.head_gathers import GatherHeads
from poprt.compiler.interface import ReadInterface, tensor_spec
from poprt.compiler.key_flips import FlipKeys
from poprt.compiler.lower_half import LowerHalf
from poprt.compiler.mend_types import MendTypes
from poprt.compiler.normalise import KeepOutputs, NameNodes, WidenNarrowArithmetic
from poprt.compiler.options import CompilerOptions
from poprt.compiler.pack_operators import pack_operators
from poprt.compiler.packing_spec import read_packing
from poprt.compiler.progress import Progress
from poprt.compiler.ragged import LowerPacking
from poprt.compiler.source import ModelLike, Source, read_model
from poprt.compiler.split import split_models, split_outputs
from poprt.compiler.validate import validate
from poprt.compiler.versions import versions
from poprt.engine.cpu import lacks_int8_dot_products
from poprt.engine.custom_ops import custom_ops, library_names
from poprt.engine.providers import has_fast_half
from poprt.errors import CompileError
from poprt.executable import Executable, Manifest, PackingSpec, TensorSpec, WeightSpec, place_weights
from poprt.foreign_operators import custom_operators

logger = logging.getLogger("poprt")

#: Where the converter notes the passes that made a model: a JSON list, in the model's metadata.
PASSES_KEY = "poprt.passes"


class Compiler:
    """Turns a model into an executable."""

    @staticmethod
    def compile(
        model: ModelLike | PartedModel, outputs: Sequence[str] | None = None, options: CompilerOptions | None = None
    ) -> Executable:
        """Compile ``model``.

        Args:
            model: the bytes of an ONNX model, its path, or a ModelProto or PartedModel (which are not changed; the
                weights of the latter are shared). External data beside a path is mapped into memory, not read: leave
                the file as it is while the executable is in use.
                Of a fused model (:class:`poprt.fusion.MFConverter`) an executable of several is made.
            outputs: names of the outputs to keep, in the order wanted; None keeps all of them.
            options: see :class:`CompilerOptions`.

        Raises:
            CompileError: the model cannot be read, an output does not exist, or the engine cannot run the model.
        """
        options = options or CompilerOptions()
        options.announce()
        with custom_ops(options.libraries()), Progress(options.show_compilation_progress_bar) as progress:
            progress.step("reading the model")
            source = read_model(model, constant_weights=options.constant_weights)
            parts = split_models(source)
            if not parts:
                return _compile_one(source, outputs, options, progress)
            kept = split_outputs(parts, outputs)
            models = []
            for index, (part, own) in enumerate(zip(parts, kept, strict=True)):
                try:
                    models.append(_compile_one(part, own, options, progress))
                except CompileError as error:
                    raise CompileError(f"model {index}: {error}") from error
            return Executable.fused(models)

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

    An exception on a valid model is a bug of ours and passes. What a lowering refuses is a CompileError.
    """
    try:
        yield
    except CompileError:
        raise
    except RewriteError as error:
        raise CompileError(str(error)) from error
    except Exception as error:
        reason = why_invalid(model)
        if reason is None:
            raise
        logger.debug("compiling failed on a model that is not valid", exc_info=error)
        raise CompileError(f"the model is not valid: {reason}") from error


def _compile_one(
    source: Source, outputs: Sequence[str] | None, options: CompilerOptions, progress: Progress
) -> Executable:
    """The executable of one model, from the cache where it is there."""
    chosen = _chosen_outputs(source.model, outputs)
    with blaming(source.model):
        return cached(source, chosen, options, lambda: _compile(source, chosen, options, progress))


def _chosen_outputs(model: onnx.ModelProto, outputs: Sequence[str] | None) -> list[str]:
    model_outputs = [item.name for item in model.graph.output]
    if not model_outputs:
        raise CompileError("the model has no outputs; is it an ONNX model?")
    if outputs is None:
        return model_outputs
    unknown = [name for name in outputs if name not in model_outputs]
    if unknown or not outputs:
        asked = ", ".join(map(repr, unknown)) or "nothing"
        raise CompileError(f"outputs: {asked} asked for; the model's outputs are {', '.join(model_outputs)}")
    return list(dict.fromkeys(outputs))


def _compile(source: Source, outputs: list[str], options: CompilerOptions, progress: Progress) -> Executable:
    packing = read_packing(source.model)
    interface = ReadInterface()
    rows_apart = packing is None or packing.rows_apart
    opening = OpenBatch(weights=source.weights) if rows_apart and not source.variable else None
    manager = PassManager(
        _lowerings(source, outputs, packing, interface, opening),
        dump_dir=options.dump_passes or None,
        on_pass=lambda name: progress.step(f"lowering ({name})"),
        weights_elsewhere=True,
    )
    model = manager.run(source.model)
    unsigning = (UnsignWeights.name, UnsignDequantised.name)
    if any(record.name in unsigning and record.result.modified for record in manager.records):
        logger.warning(
            "this CPU has no 8-bit dot products: int8 weights are stored unsigned, exact here and slow on other CPUs"
        )
    progress.step("placing the weights")
    if packing is not None:
        kinds = {name: kind for name, kind in packing.outputs.items() if name in outputs}
        packing = replace(packing, outputs=kinds)
        if any(record.name == FuseFullPacks.name and record.result.modified for record in manager.records):
            packing = with_full_packs(packing, model)
    manifest = _manifest(source, model, interface, packing, options)
    if opening is not None:
        reason = str(opening.refusal or "")
        manifest = replace(manifest, batch_axes=opening.axes, batch_held=reason)
        logger.debug("batch size: %s", f"held, {reason}" if reason else "open")
    check_feedable(manifest)
    arrays = {spec.name: source.weights[spec.name] for spec in manifest.weights}
    _make_inputs(model, {spec.name for spec in manifest.weights if not spec.constant})
    executable = Executable.build(manifest, model.SerializeToString(deterministic=True), arrays)
    progress.step("asking the engine")
    validate(model, executable)
    return executable


def _lowerings(
    source: Source,
    outputs: list[str],
    packing: PackingSpec | None,
    interface: ReadInterface,
    opening: OpenBatch | None,
) -> list[GraphPass]:
    """The passes from a converted model to the engine's graph, in order."""
    steps = [KeepOutputs(outputs), AttachBodies(), NameNodes(), WidenNarrowArithmetic(), MendTypes(), interface]
    steps += [opening] if opening is not None else []
    steps.append(LowerPacking(packing))
    if not has_fast_half():
        steps.append(LowerHalf())
    if packing is not None and packing.ragged:
        steps += [FlipKeys(), GatherHeads()]  # in this order: the first looks at reshapes that the second takes out
    steps.append(ErfGeluPattern())  # the engine knows GELU in fewer spellings than exporters have
    if lacks_int8_dot_products():
        steps += [UnsignWeights(source.weights), UnsignDequantised(source.weights)]
    steps.append(FuseInt8())
    if packing is not None and not has_fast_half():
        steps.append(FuseFullPacks(packing))
    return steps


def _manifest(
    source: Source,
    model: onnx.ModelProto,
    interface: ReadInterface,
    packing: PackingSpec | None,
    options: CompilerOptions,
) -> Manifest:
    metadata = {item.key: item.value for item in model.metadata_props}
    foreign = custom_operators(model)
    return Manifest(
        inputs=_with_engine_types(interface.inputs, model.graph.input),
        outputs=_with_engine_types(interface.outputs, model.graph.output),
        weights=_weight_specs(source, model),
        packing=packing,
        passes=_passes_run(metadata.get(PASSES_KEY, "[]")),
        options=options.to_note(),
        versions=versions(),
        opaque_blobs=dict(options.opaque_blobs),
        metadata=metadata,
        custom_ops=foreign,
        custom_libraries=library_names() if foreign else (),
        shared_scales=shared_scales(source.model),
        pack_operators=pack_operators(source.model) if packing is None else None,
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


def _with_engine_types(specs: Sequence[TensorSpec], values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    engine = {item.name: tensor_spec(item).dtype for item in values}
    return tuple(replace(spec, engine_dtype=engine[spec.name]) for spec in specs)


def _weight_specs(source: Source, model: onnx.ModelProto) -> tuple[WeightSpec, ...]:
    """The stored weights that the engine's graph still reads, in the order of its initializers."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name in source.weights]
    places = place_weights({tensor.name: source.weights[tensor.name] for tensor in kept})
    specs = []
    for tensor in kept:
        array = source.weights[tensor.name]
        engine_dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
        offset, nbytes = places[tensor.name]
        constant = tensor.name not in source.variable
        specs.append(WeightSpec(tensor.name, array.shape, array.dtype.name, engine_dtype, offset, nbytes, constant))
    return tuple(specs)


def _make_inputs(model: onnx.ModelProto, names: set[str]) -> None:
    """Turn the initializers ``names`` into inputs of the engine's graph."""
    for index in reversed(range(len(model.graph.initializer))):
        tensor = model.graph.initializer[index]
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            del model.graph.initializer[index]
