"""Options to ordered passes to converted model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import onnx

from passes import PassManager, PassRecord, get_pass, get_registered_passes
from passes.base import Pass
from passes.check.external import check_loaded
from passes.check.sparse import densify
from passes.check.structure import check_structure
from passes.errors import RewriteError
from passes.node_protos import opset_of
from passes.packed_model import PackedModel
from passes.parted import PartedModel
from passes.precision.float_to_int8 import FloatToInt8
from passes.shapes.input_shapes import InputShapes
from poprt.convert_options import (
    IPU_ONLY_PASSES,
    WITHIN_ROWS_PASS,
    ConvertKeywords,
    ConvertOptions,
    not_default,
    read_options,
)
from poprt.errors import PoprtError
from poprt.isolation import Compile, IsolationTrial, try_isolation
from poprt.load_check import check_loads
from poprt.progress import pass_progress
from poprt.sample_data import Array, InputInfo, model_inputs
from poprt.verify import Verification, sample_case, verify

#: The least opset that the passes work on, and the one that packing needs.
LEAST_OPSET, PACKING_OPSET = 13, 17

_CALIBRATION_SEED = 1

#: A pass and the arguments to make it with.
Step = tuple[str, dict[str, Any]]


class Converter(ConvertKeywords):
    """Rewrites a model by the options given; every keyword has a default, and None and "" mean the default.

    Args:
        input_shape: input name -> extents; fixes variable dimensions. An unknown name is a warning.
        convert_version: opset to raise the model to; a model is never lowered.
        precision: "fp32", "fp16" or "int8": products by constant matrices and embedding tables in int8, the rest in
            fp32 (pass ``float_to_int8``, which measures on random data what each product costs; one of your own in
            ``used_passes``, with other options or data, takes its place).
        checkpoints, remove_outputs: tensors to add as outputs; outputs to drop (list or comma-separated).
        fp16_skip_op_types: operator types that stay in fp32.
        skip_passes, used_passes: default passes to leave out; passes to add after the default ones, in order. Only
            ``insert_attention_mask`` runs earlier, instead of ``packed_transformer``: it works on open axes.
        check: compare the numbers of both models afterwards; see ``verification``.
        skip_isolation_check: do not try, on the compiled model, whether samples of one run leave each other's answers
            alone. Every conversion with packing does; see ``isolation``.
        skip_check_load: do not open onnxruntime on the converted model to see that it loads it; see ``load_check``.
        dump_passes: a folder for the model after each pass that changed it, numbered, without its large weights.
        pack_args: pack samples of many lengths (pass ``packed_transformer``; with ``insert_attention_mask`` among
            the ``used_passes``, within rows and with one final Unpack).
        max_tensor_size: largest constant in bytes that folding may create; -1 is no limit.
        infer_shape_ahead: fix and infer shapes before folding constants.
        enable_avoid_overflow_patterns: with fp16, also keep sums, exponentials, squares and attention scores in fp32.
            Nodes whose weights fp16 cannot hold stay fp32 anyway.
        batch_size, batch_axis: set that axis of every input.
        disable_progress_bar: show no progress, also on a terminal.
        logger: where messages go; default is the logger "poprt".

    The other keywords ask for single rewrites, or steer an IPU and are announced as having no effect. The table of all
    keywords, with their types and defaults, is :class:`poprt.convert_options.ConvertKeywords`.

    Attributes:
        records: what each pass of the last :meth:`convert` did.
        verification: the numeric comparison of the last :meth:`convert`; None without ``check``.
        isolation: what was tried with samples that share a run; None for a model that is not packed.

    Raises:
        RewriteError: a value is wrong, or asks for something that this version lacks.
    """

    def __post_init__(self, logger: logging.Logger | None) -> None:
        self.logger = logger or logging.getLogger("poprt")
        self.options = read_options(self, self.logger)
        self.records: list[PassRecord] = []
        self.verification: Verification | None = None
        self.isolation: IsolationTrial | None = None

    def convert(self, model: onnx.ModelProto, *, compile_model: Compile | None = None) -> onnx.ModelProto:
        """Return the converted model. The given one is left as it is.

        Args:
            model: what to convert.
            compile_model: as for :meth:`convert_in_place`.

        Raises:
            RewriteError: the model is not valid, or the model or an option makes a pass impossible; the message names
                the pass. An exception in a pass of the caller's own is its cause.
            PoprtError: onnxruntime does not load the converted model, or ``check`` cannot run one of the models.
        """
        work = onnx.ModelProto()
        work.CopyFrom(model)
        converted = self.convert_in_place(work, compile_model=compile_model)
        self.verification = verify(model, converted, self.options.precision) if self.options.check else None
        return converted

    def convert_in_place(self, model: onnx.ModelProto, *, compile_model: Compile | None = None) -> onnx.ModelProto:
        """Return the converted model without a copy of the given one, which is of no use afterwards.

        A caller that keeps no reference to it saves memory. ``check`` compares nothing: there is no original left.

        Args:
            model: what to convert.
            compile_model: compiles the model that :attr:`isolation` is tried on, which it is given with the weights
                beside it; the caller may keep the result.

        Raises:
            RewriteError: as for :meth:`convert`.
        """
        check_structure(model)
        check_loaded(model)
        densify(model)
        inputs = model_inputs(model) if self.options.packs else []  # now: the passes may consume the model
        steps = [_with_data(_make(step), model) for step in self._steps(model)]
        with pass_progress(len(steps), disabled=self.options.disable_progress_bar) as on_pass:
            manager = PassManager(steps, on_pass=on_pass, dump_dir=self.options.dump_passes or None)
            try:
                converted = manager.run_parted(model)
            finally:
                self.records = manager.records
        del model, steps  # the trial needs room for the weights
        self._sign(converted.model)
        if not self.options.skip_check_load:
            check_loads(converted)
        self.isolation = self._tried(converted, inputs, compile_model)
        return converted.whole()

    def _tried(
        self, model: PartedModel, inputs: list[InputInfo], compile_model: Compile | None
    ) -> IsolationTrial | None:
        """The trial at the end of a conversion with packing. It may change what the model says of its neighbours."""
        packed = PackedModel.read(model.model) if self.options.packs else None
        if packed is None:
            return None
        if self.options.skip_isolation_check:
            return IsolationTrial(packed.neighbours, not_tried="left out by skip_isolation_check")
        return try_isolation(model, packed, inputs, compile_model=compile_model, logger=self.logger)

    def _steps(self, model: onnx.ModelProto) -> list[Step | Any]:
        """The passes in order: the default ones without the skipped, the user's, the closing ones."""
        options = self.options
        shapes = _input_shapes(options, model, self.logger)
        registered = get_registered_passes()
        for name in options.skip_passes:
            if name not in registered and name not in IPU_ONLY_PASSES:
                get_pass(name)  # raises, and offers the nearest names
        used = [step for step in options.used_passes if step != WITHIN_ROWS_PASS and not self._is_ipu_only(step)]
        default = [*_opening(options, opset_of(model)), *_middle(options, shapes)]
        if options.precision == "int8" and not any(isinstance(step, FloatToInt8) for step in used):
            default.append(("float_to_int8", {}))
        steps: list[Step | Any] = [step for step in default if step[0] not in options.skip_passes]
        steps += [(step, {}) if isinstance(step, str) else step for step in used]
        return steps + [step for step in _CLOSING if step[0] not in options.skip_passes]

    def _is_ipu_only(self, step: Any) -> bool:
        if isinstance(step, str) and step in IPU_ONLY_PASSES and step not in get_registered_passes():
            self.logger.warning("pass %s has no effect here: it steers the IPU", step)
            return True
        return False

    def _sign(self, model: onnx.ModelProto) -> None:
        """Record in the model which version made it, by which passes and options."""
        properties = {prop.key: prop.value for prop in model.metadata_props}
        properties["poprt.version"] = version("poprt")
        properties["poprt.passes"] = json.dumps([record.name for record in self.records])
        properties["poprt.options"] = json.dumps(not_default(self), default=str, sort_keys=True)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, properties)


_CLOSING: list[Step] = [
    ("eliminate_deadend", {}),
    ("eliminate_unused_initializer", {}),
    ("sort_graph", {}),
    ("unique_name_for_nodes", {}),
]


def _opening(options: ConvertOptions, opset: int) -> list[Step]:
    """From the model as it came to a clean graph at an opset that the passes understand."""
    target = max(options.convert_version or 0, PACKING_OPSET if options.packs else LEAST_OPSET)
    steps: list[Step] = [("remove_initializer_from_input", {})]
    if options.remove_outputs:
        steps.append(("remove_outputs", {"names": options.remove_outputs}))
    if options.checkpoints:  # before any pass that may take the tensor away
        steps.append(("add_checkpoints", {"names": options.checkpoints}))
    steps.append(("extract_constant_to_initializer", {}))
    if opset < target:
        steps.append(("convert_opset", {"target": target}))
    return steps


def _middle(options: ConvertOptions, shapes: InputShapes) -> list[Step]:
    fixing: list[Step] = [("shape_inference", {})]
    if shapes:
        fixing.append(("const_input_shape", {"input_shape": shapes}))
    cleaning: list[Step] = [("constant_folding", {"max_tensor_size": options.max_tensor_size})]
    cleaning += [
        (name, {})
        for name in (
            "eliminate_identity",
            "eliminate_nop_cast",
            "eliminate_nop_reshape",
            "eliminate_nop_transpose",
            "remove_duplicated_initializer",
            "eliminate_duplicate_nodes",
        )
    ]
    steps = [*fixing, *cleaning] if options.infer_shape_ahead else [*cleaning, *fixing]
    if options.packs:
        steps.insert(len(cleaning), _packing(options, shapes))  # before the shapes are fixed
    if not options.pack_args:  # known types and shapes show more that changes nothing; Unpack makes declared ones stale
        steps += [(name, {}) for name in ("trace_folding", "eliminate_nop_cast", "eliminate_nop_reshape")]
    steps.append(("int64_to_int32", {}))
    if options.precision == "fp16":
        overflow = {"enable_avoid_overflow_patterns": options.enable_avoid_overflow_patterns}
        steps.append(("float_to_half", {"skip_op_types": options.fp16_skip_op_types, **overflow}))
    return steps + [(name, {} if value is None else {"value": value}) for name, value in options.keyword_passes]


def _with_data(step: Any, model: onnx.ModelProto) -> Any:
    """float_to_int8 with random data to measure on: other data than `check` compares with, of the same kind."""
    if not isinstance(step, FloatToInt8):
        return step
    inputs = model_inputs(model)  # now: the passes may consume the model

    def feeds(converted: onnx.ModelProto) -> dict[str, Array]:
        try:
            return sample_case(inputs, converted, _CALIBRATION_SEED).converted_feeds
        except PoprtError as error:  # a pass raises errors of passes
            raise RewriteError(str(error)) from error

    return step.with_data(feeds)


def _packing(options: ConvertOptions, shapes: InputShapes) -> Step:
    """The pass that packs. It works on the axes by their names and is told what they will be fixed to."""
    name = WITHIN_ROWS_PASS if WITHIN_ROWS_PASS in options.used_passes else "packed_transformer"
    return (name, {"pack_args": options.pack_args, "input_shape": shapes})


def _make(step: Step | Any) -> Pass | Callable[[onnx.ModelProto], onnx.ModelProto]:
    if isinstance(step, tuple):
        name, arguments = step
        return get_pass(name, **arguments)
    function: Callable[[onnx.ModelProto], onnx.ModelProto] = step
    return function


def _input_shapes(options: ConvertOptions, model: onnx.ModelProto, logger: logging.Logger) -> InputShapes:
    """What the inputs will be fixed to. A name that is no input is a warning; scripts rely on that."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in weights]
    for name in options.input_shape:
        if name not in names:
            logger.warning("input_shape names %r, which is no input of the model; its inputs are %s", name, names)
    fixed = {name: shape for name, shape in options.input_shape.items() if name in names}
    return InputShapes(fixed, options.batch_size, options.batch_axis or 0)
