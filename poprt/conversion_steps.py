"""Options to the passes of a conversion, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import onnx

from passes import get_pass
from passes.base import Pass
from passes.builtin import BUILT_IN
from passes.errors import RewriteError
from passes.node_protos import opset_of, walk_nodes
from passes.ops import DOMAIN, known_operators, least_opset
from passes.precision.float_to_int8 import FloatToInt8
from passes.precision.int8_observation import SampleData
from passes.registry import announce, announced_passes, check_names
from passes.shapes.input_shapes import InputShapes
from poprt.convert_options import WITHIN_ROWS_PASS, ConvertOptions
from poprt.engine.plain import plain_session
from poprt.errors import PoprtError
from poprt.sample_data import Array, InputInfo
from poprt.verify_cases import sample_case

#: The least opset that the passes work on, and the one that packing needs.
LEAST_OPSET, PACKING_OPSET = 13, 17

_CALIBRATION_SEED = 1

#: A pass and the arguments to make it with, by name or by place.
Step = tuple[str, dict[str, Any] | tuple[Any, ...]]


def ordered_passes(
    options: ConvertOptions, model: onnx.ModelProto, logger: logging.Logger
) -> list[Pass | Callable[[onnx.ModelProto], onnx.ModelProto]]:
    """The passes for ``model`` in order: the default ones without the skipped, the user's, the closing ones.

    Raises:
        UnknownPassError: an option names a pass that there is none of.
    """
    shapes = _input_shapes(options, model, logger)
    keyword_names = [name for name, _ in options.keyword_passes]
    names = [*options.skip_passes, *(step for step in options.used_passes if isinstance(step, str)), *keyword_names]
    check_names(names)
    announce(names)
    without_effect = [*announced_passes(), WITHIN_ROWS_PASS]
    used = [step for step in options.used_passes if step not in without_effect]
    default = [*_opening(options, model), *_middle(options, shapes)]
    if options.precision == "int8" and not any(isinstance(step, FloatToInt8) for step in used):
        default.append(("float_to_int8", {}))
    steps: list[Step | Any] = [step for step in default if step[0] not in options.skip_passes]
    steps += [(step, {}) if isinstance(step, str) else step for step in used]
    steps += [step for step in _closing(used) if step[0] not in options.skip_passes]
    return [_make(step) for step in steps]


def _make(step: Step | Any) -> Pass | Callable[[onnx.ModelProto], onnx.ModelProto]:
    if isinstance(step, tuple):
        name, arguments = step
        return get_pass(name, **arguments) if isinstance(arguments, dict) else get_pass(name, *arguments)
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


_KNOWN = {"known_only": True}  # a library may bring others

_CLOSING: list[Step] = [
    ("eliminate_deadend", {}),
    ("eliminate_unused_initializer", {}),
    ("sort_graph", {}),
    ("unique_name_for_nodes", {}),
]


def _closing(used: list[Any]) -> list[Step]:
    """The last steps. A pass of a script's own may have put operators of ours into the model."""
    of_scripts = any(step not in BUILT_IN for step in used)
    return [*([("attach_bodies", _KNOWN)] if of_scripts else []), *_CLOSING]


def own_operators(model: onnx.ModelProto) -> list[str]:
    """The operators of domain ``ai.graphcore`` in ``model`` that have bodies here."""
    return known_operators(node.op_type for node in walk_nodes(model.graph.node) if node.domain == DOMAIN)


def _opening(options: ConvertOptions, model: onnx.ModelProto) -> list[Step]:
    """From the model as it came to a clean graph at an opset that the passes understand."""
    own = own_operators(model)
    least = PACKING_OPSET if options.packs else LEAST_OPSET
    target = max(options.convert_version or 0, least, least_opset(own))
    steps: list[Step] = [("remove_initializer_from_input", {})]
    if options.remove_outputs:
        steps.append(("remove_outputs", {"names": options.remove_outputs}))
    if options.checkpoints:  # before any pass that may take the tensor away
        steps.append(("add_checkpoints", {"names": options.checkpoints}))
    steps.append(("extract_constant_to_initializer", {}))
    if opset_of(model) < target:
        steps.append(("convert_opset", {"target": target}))
    if own:
        steps += [("attach_bodies", _KNOWN), ("inline_ipu_operators", {}), ("replace_castlike", {})]
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
    # What is constant already costs inference time. Packing measures anew what may be folded here.
    tracing: list[Step] = [] if options.packs else [("trace_folding", {})]
    steps = [*fixing, *cleaning] if options.infer_shape_ahead else [*cleaning, *tracing, *fixing]
    opened: list[Step] = [("lift_dynamic_int8", {})] if options.lifts_dynamic_int8 else []
    if options.packs:
        opened.append(_packing(options, shapes))
    where = len(steps) if options.infer_shape_ahead else len(cleaning)  # before the shapes are fixed
    steps[where:where] = opened
    if not options.pack_args:  # known types and shapes show more that changes nothing; Unpack makes declared ones stale
        steps += [(name, {}) for name in ("trace_folding", "eliminate_nop_cast", "eliminate_nop_reshape")]
    if options.lifts_dynamic_int8:
        steps.append(("lower_dynamic_int8", {"a_token": options.requantize}))
    steps.append(("int64_to_int32", {}))
    if options.precision == "fp16":
        overflow = {"enable_avoid_overflow_patterns": options.enable_avoid_overflow_patterns}
        steps.append(("float_to_half", {"skip_op_types": options.fp16_skip_op_types, **overflow}))
    if options.precision == "bf16":
        steps.append(("float_to_bfloat16", {}))
    without_effect = announced_passes()
    asked = [(name, value) for name, value in options.keyword_passes if name not in without_effect]
    return steps + [(name, () if value is None else (value,)) for name, value in asked]


def with_data(step: Any, inputs: list[InputInfo], sample_data: SampleData | None) -> Any:
    """float_to_int8 with data to measure on: the caller's, or random data of the kind that `check` compares with."""
    if not isinstance(step, FloatToInt8):
        return step
    if sample_data is not None:
        return step.with_data(sample_data, _run_optimised, real=True)

    def feeds(converted: onnx.ModelProto) -> dict[str, Array]:
        try:
            return sample_case(inputs, converted, _CALIBRATION_SEED).converted_feeds
        except PoprtError as error:  # a pass raises errors of passes
            raise RewriteError(str(error)) from error

    return step.with_data(feeds, _run_optimised)


def _run_optimised(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    session = plain_session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _packing(options: ConvertOptions, shapes: InputShapes) -> Step:
    """The pass that packs. It works on the axes by their names and is told what they will be fixed to."""
    name = WITHIN_ROWS_PASS if WITHIN_ROWS_PASS in options.used_passes else "packed_transformer"
    return (name, {"pack_args": options.pack_args, "input_shape": shapes})
