"""What the installed engine says of operators: the schemas, in onnx's form, and which have a float16 kernel."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as engine

_Option = onnx.defs.OpSchema.FormalParameterOption


@cache
def engine_schema(domain: str, op: str) -> onnx.defs.OpSchema | None:
    """The newest schema that the installed onnxruntime has of an operator of its own; None where it has none.

    Types of inputs and outputs are there; attributes are not.
    """
    schema = _schemas().get((domain, op))
    return None if schema is None else _as_onnx(domain, op, schema)


def has_half_kernel(domain: str, op: str) -> bool:
    """Whether the engine lists a kernel of an operator, in any version, that takes float16 without a cast."""
    return (domain, op) in _half_kernels()


@cache
def _half_kernels() -> frozenset[tuple[str, str]]:
    kernels = engine.get_all_opkernel_def()
    takes = [(kernel, [kind for kinds in kernel.type_constraints.values() for kind in kinds]) for kernel in kernels]
    return frozenset((kernel.domain, kernel.op_name) for kernel, kinds in takes if "tensor(float16)" in kinds)


@cache
def _schemas() -> dict[tuple[str, str], Any]:
    schemas = sorted(engine.get_all_operator_schema(), key=lambda schema: schema.since_version)
    return {(schema.domain, schema.name): schema for schema in schemas}


def _as_onnx(domain: str, op: str, schema: Any) -> onnx.defs.OpSchema:
    constraints = [(str(c.type_param_str), list(c.allowed_type_strs), "") for c in schema.type_constraints]
    inputs, outputs = ([_parameter(formal) for formal in formals] for formals in (schema.inputs, schema.outputs))
    return onnx.defs.OpSchema(
        op, domain, schema.since_version, inputs=inputs, outputs=outputs, type_constraints=constraints
    )


def _parameter(formal: Any) -> onnx.defs.OpSchema.FormalParameter:
    option = getattr(_Option, formal.option.name)
    return onnx.defs.OpSchema.FormalParameter(
        formal.name, formal.typeStr, param_option=option, is_homogeneous=formal.isHomogeneous
    )
