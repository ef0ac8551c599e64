"""Compile a model for the engine: the steps, in order."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from passes.check.explain import why_invalid
from passes.errors import RewriteError
from passes.parted import PartedModel
from passes.precision.shared_scales import shared_scales
from poprt.compiler.cache import cached
from poprt.compiler.feedable import check_feedable
from poprt.compiler.interface import tensor_spec
from poprt.compiler.lowering import (
    Lowered,
    compute_type,
    lower,
    other_graph,
    why_not_together,
    why_onnxruntime_alone,
)
from poprt.compiler.options import CompilerOptions
from poprt.compiler.pack_operators import pack_operators
from poprt.compiler.progress import Progress
from poprt.compiler.source import ModelLike, Source, read_model
from poprt.compiler.split import split_models, split_outputs
from poprt.compiler.validate import validate
from poprt.compiler.versions import versions
from poprt.engine.choice import AUTO
from poprt.engine.custom_ops import custom_ops, library_names
from poprt.errors import CompileError
from poprt.executable import Executable, Manifest, TensorSpec, WeightSpec, place_weights
from poprt.foreign_operators import custom_operators
from poprt.manifest import ENGINES, ONNXRUNTIME, OPENVINO

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
    graphs = _lowered(source, outputs, options, progress)
    main = graphs[0]
    progress.step("placing the weights")
    manifest = _manifest(source, graphs, options)
    check_feedable(manifest)
    arrays = {spec.name: _weight_of(graphs, spec.name) for spec in manifest.weights}
    for graph in graphs:
        # OpenVINO takes all weights in the place of inputs; onnxruntime those that are replaced while it runs.
        fed = [spec.name for spec in manifest.weights if graph.engine == OPENVINO or not spec.constant]
        _make_inputs(graph.model, set(fed))
    others = {graph.engine: graph.model.SerializeToString(deterministic=True) for graph in graphs[1:]}
    executable = Executable.build(manifest, main.model.SerializeToString(deterministic=True), arrays, others)
    progress.step("asking the engine")
    if main.engine == ONNXRUNTIME:  # another engine need not be installed here
        validate(main.model, executable)
    return executable


def _lowered(source: Source, outputs: list[str], options: CompilerOptions, progress: Progress) -> list[Lowered]:
    """The graphs for the engines that are asked for. Under "auto" one that cannot be is left out.

    Raises:
        CompileError: the engine that is asked for by name cannot run such a model.
    """
    chosen = options.engine
    if chosen != AUTO:
        if chosen != ONNXRUNTIME and (reason := why_onnxruntime_alone(source)):
            raise CompileError(f"compiler option 'engine': {chosen!r}: {reason}; leave the option out")
        return [lower(source, outputs, options, chosen, progress)]
    graphs = [lower(source, outputs, options, ONNXRUNTIME, progress)]
    for engine in ENGINES[1:]:
        reason = why_onnxruntime_alone(source)
        if not reason:
            graph = lower(source, outputs, options, engine, progress)
            reason = why_not_together(graphs[0], graph)
        if reason:
            logger.info("no graph for %s: %s", engine, reason)
        else:
            graphs.append(graph)
    return graphs


def _weight_of(graphs: Sequence[Lowered], name: str) -> npt.NDArray[Any]:
    return next(graph.weights[name] for graph in graphs if name in graph.weights)


def _manifest(source: Source, graphs: Sequence[Lowered], options: CompilerOptions) -> Manifest:
    main = graphs[0]
    model, interface = main.model, main.interface
    metadata = {item.key: item.value for item in model.metadata_props}
    foreign = custom_operators(model)
    reason = str(main.opening.refusal or "") if main.opening is not None else ""
    if main.opening is not None:
        logger.debug("batch size: %s", f"held, {reason}" if reason else "open")
    return Manifest(
        inputs=_with_engine_types(interface.inputs, model.graph.input),
        outputs=_with_engine_types(interface.outputs, model.graph.output),
        weights=_weight_specs(source, graphs),
        packing=main.packing,
        batch_axes=main.opening.axes if main.opening is not None else {},
        batch_held=reason,
        pack_operators=pack_operators(source.model) if main.packing is None else None,
        passes=_passes_run(metadata.get(PASSES_KEY, "[]")),
        options=options.to_note(),
        versions=versions(),
        opaque_blobs=dict(options.opaque_blobs),
        metadata=metadata,
        custom_ops=foreign,
        custom_libraries=library_names() if foreign else (),
        shared_scales=shared_scales(source.model),
        engine=main.engine,
        other_graphs={graph.engine: other_graph(graph) for graph in graphs[1:]},
        compute=compute_type(metadata),
        activation_group=max(graph.activation_group for graph in graphs),
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


def _weight_specs(source: Source, graphs: Sequence[Lowered]) -> tuple[WeightSpec, ...]:
    """The stored weights that the graphs still read, in the order of their initializers."""
    types: dict[str, int] = {}
    readers: dict[str, list[str]] = {}
    for graph in graphs:
        for tensor in graph.model.graph.initializer:
            if tensor.name in graph.weights:
                types.setdefault(tensor.name, tensor.data_type)
                readers.setdefault(tensor.name, []).append(graph.engine)
    arrays = {name: _weight_of(graphs, name) for name in types}
    places = place_weights(arrays)
    return tuple(
        WeightSpec(
            name,
            arrays[name].shape,
            arrays[name].dtype.name,
            np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).name,
            *places[name],
            constant=name not in source.variable,
            engines=() if len(readers[name]) == len(graphs) else tuple(readers[name]),
        )
        for name, data_type in types.items()
    )


def _make_inputs(model: onnx.ModelProto, names: set[str]) -> None:
    """Turn the initializers ``names`` into inputs of the engine's graph."""
    for index in reversed(range(len(model.graph.initializer))):
        tensor = model.graph.initializer[index]
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            del model.graph.initializer[index]
