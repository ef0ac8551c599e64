"""A session over a model as it is: the original to compare with, or a graph that is only to be checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as engine

from poprt.engine.options import session_options
from poprt.engine.providers import CPU_ONLY

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16, without onnx


def plain_session(
    model: bytes | str | os.PathLike[str],
    *,
    optimise: bool = True,
    threads: int | None = None,
    providers: Sequence[str] = CPU_ONLY,
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
) -> ort.InferenceSession:
    """Open onnxruntime on a model.

    Args:
        model: its bytes or its path.
        optimise: with onnxruntime's own rewrites. Without, the graph runs as it is written.
        threads: for one operator; None takes the usable cores.
        providers: onnxruntime's execution providers, best first.
        weights: the initializers that the model marks as external, contiguous. They are packed into no other layout,
            which is for a session that is opened to be run once or never.

    Raises:
        Exception: onnxruntime refuses the model. Its exceptions share no base class of their own.
    """
    options = session_options(threads)
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    values = [_ort_value(array) for array in (weights or {}).values()]
    if weights:
        options.add_external_initializers(list(weights), values)
        options.add_session_config_entry("session.disable_prepacking", "1")
    source = model if isinstance(model, bytes) else os.fspath(model)
    return ort.InferenceSession(source, options, providers=list(providers))


def _ort_value(array: npt.NDArray[Any]) -> ort.OrtValue:
    """``array`` as onnxruntime's own value; numpy has no bfloat16, so the type is said where it is that."""
    if array.dtype != ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy(array)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)


def has_operator(domain: str, op: str) -> bool:
    """Whether the installed onnxruntime knows an operator, in any version."""
    return ("" if domain == "ai.onnx" else domain, op) in _operators()


@cache
def _operators() -> frozenset[tuple[str, str]]:
    return frozenset((schema.domain, schema.name) for schema in engine.get_all_operator_schema())
