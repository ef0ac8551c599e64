"""Compare a converted model with the original on the same data, in the engine with its optimiser off."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from passes.packed_model import PackedModel
from poprt.compiler.lower_int8 import with_exact_products
from poprt.engine.plain import plain_session
from poprt.errors import PoprtError
from poprt.sample_data import Array, InputInfo, model_inputs, sample_feeds, sample_shapes
from poprt.sizes import LARGEST_MESSAGE, weight_bytes
from poprt.value_dependence import Dependence, dependences
from poprt.verify_packed import PackedCase, pack_samples

#: Largest difference relative to the largest magnitude of an output, by precision. For the floats a magnitude below 1
#: counts as 1. int8's tolerance is too wide for that: it would let pass any embedding of unit length.
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2, "int8": 1.5e-1}
_LEAST_MAGNITUDE = {"fp32": 1.0, "fp16": 1.0, "int8": 1e-3}

logger = logging.getLogger("poprt")


@dataclass(frozen=True)
class OutputCheck:
    """How one output of the converted model compares with the original's.

    Attributes:
        max_abs_diff, mean_abs_diff: over all compared values; inf where one side is NaN or infinite alone.
        tolerance: the largest difference that passes; 0 for whole numbers.
        passed: whether the difference is within the tolerance, or nothing can be said.
        not_comparable: why nothing can be said; "" where the outputs were compared.
    """

    name: str
    max_abs_diff: float
    mean_abs_diff: float
    tolerance: float
    passed: bool
    not_comparable: str = ""


@dataclass(frozen=True)
class Verification:
    """The comparison of two models: one entry an output that both have, over ``runs`` runs of the original."""

    outputs: tuple[OutputCheck, ...]
    runs: int

    @property
    def passed(self) -> bool:
        """Whether every output that can be compared is within its tolerance."""
        return all(output.passed for output in self.outputs)


def verify(
    original: onnx.ModelProto, converted: onnx.ModelProto, precision: str = "fp32", *, seed: int = 0
) -> Verification:
    """Run both models on the same random data and compare the outputs that both have.

    A packed model gets samples of random lengths, packed; each is compared with its own unpadded run of the original.
    Integer products are exact on every CPU, as they are in an executable compiled on it. An output whose extents differ
    because they depend on values, or that holds random numbers, is not comparable: a warning says so, and it passes.

    Raises:
        PoprtError: a model cannot be run, or the two have no output in common.
    """
    names = _common_outputs(original, converted)
    case = sample_case(model_inputs(original), converted, seed)
    session = engine_session(with_exact_products(original))  # one session at a time: each holds a copy of the weights
    expected = [run_session(session, names, feeds) for feeds in case.original_feeds]
    del session
    served = with_exact_products(converted)
    if served is not converted:
        logger.warning(
            "this CPU has no 8-bit dot products: the check is of the model as it is compiled; "
            "in stock onnxruntime the converted one may overflow here, unless it was made with reduce_range=True"
        )
    got = run_session(engine_session(served), names, case.converted_feeds)
    pairs = {
        name: [case.pair(name, mine[name], got[name], index) for index, mine in enumerate(expected)] for name in names
    }
    decided = dependences(original)
    checks = tuple(_judge(name, pairs[name], precision, decided[name]) for name in names)
    return Verification(checks, len(expected))


def sample_case(originals: list[InputInfo], converted: onnx.ModelProto, seed: int) -> PackedCase:
    """Random data for both models. Of ``converted`` only the inputs and the metadata are read."""
    rng = np.random.default_rng(seed)
    packed = PackedModel.read(converted)
    if packed is not None:
        return pack_samples(packed, originals, model_inputs(converted), rng)
    return _plain_case(originals, model_inputs(converted), rng)


def engine_session(model: onnx.ModelProto, *, optimise: bool = False) -> ort.InferenceSession:
    """A session over ``model`` on the CPU, by default with the engine's own optimiser off.

    Raises:
        PoprtError: the engine cannot load the model.
    """
    try:
        if weight_bytes(model) <= LARGEST_MESSAGE:
            return plain_session(model.SerializeToString(), optimise=optimise)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.onnx")
            copy = onnx.ModelProto()
            copy.CopyFrom(model)  # saving with external data empties the tensors of the model that it is given
            onnx.save(copy, path, save_as_external_data=True, location="model.data")
            return plain_session(path, optimise=optimise)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise PoprtError(f"onnxruntime cannot load the model: {error}") from error


def run_session(session: ort.InferenceSession, names: list[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run once; outputs by name.

    Raises:
        PoprtError: the engine cannot run the model on this data.
    """
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        shapes = {name: array.shape for name, array in feeds.items()}
        raise PoprtError(f"onnxruntime cannot run the model on inputs of shapes {shapes}: {error}") from error


def _common_outputs(original: onnx.ModelProto, converted: onnx.ModelProto) -> list[str]:
    theirs = {value.name for value in original.graph.output}
    names = [value.name for value in converted.graph.output if value.name in theirs]
    if not names:
        raise PoprtError("the converted model has no output in common with the original; there is nothing to compare")
    return names


def _plain_case(originals: list[InputInfo], converted: list[InputInfo], rng: np.random.Generator) -> PackedCase:
    """One batch for both models; the converted one says the extents that it fixes."""
    declared = {info.name: info for info in converted}
    shapes = sample_shapes([_with_shape_of(info, declared.get(info.name)) for info in originals])
    feeds = sample_feeds(originals, shapes, rng)
    for info in originals:
        if info.name in declared and declared[info.name].dtype == np.float16:
            feeds[info.name] = feeds[info.name].astype(np.float16).astype(info.dtype)  # both see what fp16 can say
    cast = {name: array.astype(declared[name].dtype) for name, array in feeds.items() if name in declared}
    return PackedCase([feeds], cast, {})


def _with_shape_of(info: InputInfo, declared: InputInfo | None) -> InputInfo:
    return info if declared is None else replace(info, shape=declared.shape, any_rank=declared.any_rank)


def _judge(name: str, pairs: list[tuple[Array, Array]], precision: str, decided: Dependence) -> OutputCheck:
    """Compare one output, or say why two right models may differ in it."""
    other_extents = next(((mine.shape, theirs.shape) for mine, theirs in pairs if mine.size != theirs.size), None)
    if other_extents is not None and decided.extents and len(other_extents[0]) == len(other_extents[1]):
        mine, theirs = map(list, other_extents)
        why = (
            f"its extents depend on values ({decided.extents}): {mine} in the original, {theirs} in the converted model"
        )
        return _not_comparable(name, why)
    check = _compare(name, pairs, precision)
    if not check.passed and decided.chance:
        return _not_comparable(name, f"it holds random numbers ({decided.chance})")
    return check


def _not_comparable(name: str, why: str) -> OutputCheck:
    logger.warning("check: output %r is not comparable: %s", name, why)
    return OutputCheck(name, math.nan, math.nan, 0.0, passed=True, not_comparable=why)


def _compare(name: str, pairs: list[tuple[Array, Array]], precision: str) -> OutputCheck:
    expected = np.concatenate([np.ravel(mine) for mine, _ in pairs])
    got = np.concatenate([np.ravel(theirs) for _, theirs in pairs])
    if expected.size != got.size:
        raise PoprtError(
            f"output {name!r}: the shapes differ, {[(mine.shape, theirs.shape) for mine, theirs in pairs]}"
        )
    if expected.dtype == object:
        return _compare_texts(name, expected, got)
    whole = expected.dtype.kind in "biu"
    difference = differences(expected.astype(np.float64), got.astype(np.float64))
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64)) if not whole else np.zeros(0)
    tolerance = (
        0.0 if whole else TOLERANCE[precision] * max(_LEAST_MAGNITUDE[precision], float(finite.max(initial=0.0)))
    )
    largest = float(difference.max(initial=0.0))
    mean = float(difference.mean()) if difference.size else 0.0
    return OutputCheck(name, largest, mean, tolerance, largest <= tolerance)


def _compare_texts(name: str, expected: Array, got: Array) -> OutputCheck:
    """Strings are equal or not: the difference is 0 or 1."""
    differs = (expected != got).astype(np.float64)
    largest, mean = float(differs.max(initial=0.0)), float(differs.mean()) if differs.size else 0.0
    return OutputCheck(name, largest, mean, tolerance=0.0, passed=not largest)


def differences(expected: Any, got: Any) -> Any:
    """The magnitude of each difference; NaN equals NaN, and infinite is what is not finite on one side alone."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(expected - got)
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
