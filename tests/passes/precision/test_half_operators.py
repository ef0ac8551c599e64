"""onnx's own cases, operator by operator: the engine takes each model in float16 and gives about the same numbers."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.case.test_case import TestCase

from passes.precision.float_to_half import FloatToHalf
from tests.numerics import session
from tests.passes.rewrites import copy_of

#: Their windows are laid in Python loops, some ten seconds each; the engine has no float16 kernel for them and casts.
SLOW_TO_MAKE = {"averagepool", "lppool", "maxpool"}
#: Drawn anew in each run, and what graphsurgeon does not carry.
NOT_COMPARED = {"Bernoulli", "Dropout", "RandomUniformLike", "Optional", "OptionalHasElement", "Loop", "If", "Identity"}
FLOAT = onnx.TensorProto.FLOAT


def cases_of(letters: str) -> Iterator[TestCase]:
    """One case for each way to write an operator, of the operators that begin with these letters."""
    names = [module.name for module in pkgutil.iter_modules(node_cases.__path__)]
    for name in sorted(set(names) - SLOW_TO_MAKE):
        if name[0] in letters:
            importlib.import_module(f"{node_cases.__name__}.{name}")
    seen = set()
    for case in node_cases._NodeTestCases:  # collect_testcases would make the slow ones too
        node = case.model.graph.node[0]
        written = (node.op_type, len(node.input), str(node.attribute), case.model.opset_import[0].version)
        expanded = len(case.model.graph.node) > 1
        if (
            node.op_type[0].lower() in letters
            and not expanded
            and written not in seen
            and node.op_type not in NOT_COMPARED
        ):
            seen.add(written)
            yield case


def has_floats(model: onnx.ModelProto) -> bool:
    return any(v.type.tensor_type.elem_type == FLOAT for v in (*model.graph.input, *model.graph.output))


def rounded(array: Any) -> Any:
    return array.astype(np.float16) if isinstance(array, np.ndarray) and array.dtype == np.float32 else array


def widened(array: Any, like: Any) -> Any:
    return array.astype(like.dtype) if isinstance(array, np.ndarray) else array


def error(expected: NDArray[Any] | list[Any], result: NDArray[Any] | list[Any]) -> float:
    """Relative to the range. What float16 cannot say may be infinite or its largest number."""
    if isinstance(expected, list):
        return max(map(error, expected, result), default=0.0)
    assert isinstance(result, np.ndarray)
    if expected.dtype.kind != "f":
        return 0.0  # an index among equals, or nearly equals, may be another one
    assert expected.shape == result.shape
    wide = [np.clip(np.nan_to_num(array.astype(np.float64), nan=7.0), -6e4, 6e4) for array in (expected, result)]
    return float(np.abs(wide[0] - wide[1]).max(initial=0) / max(1e-3, np.abs(wide[0]).max(initial=0)))


def opened(model: onnx.ModelProto, feeds: dict[str, Any]) -> ort.InferenceSession | None:
    """A session, or None where the engine lacks the operator or this form of it in float32 already."""
    try:
        engine = session(model)
        engine.run(None, feeds)
    except Exception:  # onnxruntime's exceptions share no base class of their own
        return None
    return engine


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of onnx, which computes the results that it expects
@pytest.mark.parametrize("letters", ["a", "b", "cd", "ef", "ghij", "kl", "mn", "opq", "r", "s", "tuvwxyz"])
def test_every_operator_that_the_engine_has_survives_float16(letters: str) -> None:
    wrong, tried = [], 0
    for case in cases_of(letters):
        model, inputs = case.model, case.data_sets[0][0]
        feeds = dict(zip((value.name for value in model.graph.input), inputs, strict=False))
        engine = opened(model, feeds) if has_floats(model) else None
        if engine is None:
            continue
        tried += 1
        half = session(FloatToHalf().run(copy_of(model)))
        types = {value.name: value.type for value in half.get_inputs()}
        small = {name: rounded(array) if "float16" in types[name] else array for name, array in feeds.items()}
        expected = engine.run(None, {name: widened(small[name], feeds[name]) for name in feeds})
        largest = max(map(error, expected, half.run(None, small)), default=0.0)
        if not largest < 2e-2:
            wrong.append((case.name, largest))
    assert tried
    assert not wrong
