"""Compare a converted model, as it is written and as it will be served, with the original on the same data.

The original runs in the engine with its optimiser off. What the optimiser alone makes of the original's numbers is
reported beside.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

from passes.node_protos import walk_nodes
from passes.rounding import rounds_to_8_bits
from poprt.comparison import TOLERANCE, OutputCheck, judge
from poprt.compiler.lower_int8 import with_exact_products
from poprt.declared_check import check_declared_shapes
from poprt.engine.plain import plain_session
from poprt.errors import CompileError, PoprtError
from poprt.executable import Executable
from poprt.own_precision import own_precision
from poprt.sample_data import Array, model_inputs
from poprt.sizes import LARGEST_MESSAGE, weight_bytes
from poprt.value_dependence import dependences
from poprt.verify_cases import cases_of_sizes, other_sizes, sample_case
from poprt.verify_packed import PackedCase, as_declared
from poprt.verify_served import compile_quietly, run_served

_DRAWS = 3  # data to try where one rounding that tips over moves an answer: a fault moves those of each

logger = logging.getLogger("poprt")


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
    original: onnx.ModelProto,
    converted: onnx.ModelProto,
    precision: str = "fp32",
    *,
    seed: int = 0,
    executable: Executable | None = None,
) -> Verification:
    """Run both models on the same random data and compare the outputs that both have.

    The converted model runs twice: as it is written, with the engine's optimiser off, and compiled, as it is served. A
    packed model gets samples of random lengths, packed; each is compared with its own unpadded run of the original, or
    filled up and repeated where the original fixes its extents.
    Integer products are exact on every CPU, as they are in an executable compiled on it. The tolerance is that of
    ``precision``, or of the half precision in which the original computes by itself, whichever is wider.
    A model that rounds activations to 8 bits itself gets the tolerance of that, and passes where one of a few draws of
    data does: one bit tips a rounding over. An output whose extents differ because they depend on values, or that holds
    random numbers, is not comparable: a warning says so, and it passes.
    Where the original compares an open extent with a number, sizes are tried for which it comes out otherwise too.

    Args:
        original, converted: the two models.
        precision: that of the conversion; it decides on the tolerance.
        seed: of the data.
        executable: ``converted``, compiled; None compiles it.

    Raises:
        PoprtError: a model cannot be run, the two have no output in common, or the converted model declares a shape
            that such a run shows to be another.
    """
    rounds = _rounds(original)
    kind = max(precision, own_precision(original), "rounded" if rounds else "fp32", key=TOLERANCE.__getitem__)
    names = _common_outputs(original, converted)
    compiled = _compiled(converted) if executable is None else executable
    for draw in range(_DRAWS if rounds else 1):
        case = sample_case(model_inputs(original), converted, seed + draw)
        outcome = Verification(_checks(original, converted, compiled, names, case, kind), len(case.original_feeds))
        if outcome.passed:
            break
    tries = other_sizes(original, converted)
    if not tries:
        return outcome
    check_declared_shapes(original, converted, case.converted_feeds)
    session = engine_session(with_exact_products(original))
    for case in cases_of_sizes(session, model_inputs(original), converted, tries, seed):
        more = _checks(original, converted, compiled, names, case, kind)
        check_declared_shapes(original, converted, case.converted_feeds)
        outputs = tuple(map(_worse, outcome.outputs, more))
        outcome = Verification(outputs, outcome.runs + len(case.original_feeds))
    return outcome


def _worse(first: OutputCheck, second: OutputCheck) -> OutputCheck:
    """The one that fails; of two that do not, the one that was compared and lies further apart."""
    return max(first, second, key=lambda check: (not check.passed, not check.not_comparable, check.max_abs_diff))


def _checks(
    original: onnx.ModelProto,
    converted: onnx.ModelProto,
    compiled: Executable | None,
    names: list[str],
    case: PackedCase,
    kind: str,
) -> tuple[OutputCheck, ...]:
    exact = with_exact_products(original)
    expected, optimised = (_run_original(exact, names, case, optimise=optimise) for optimise in (False, True))
    del exact
    results = [_run_written(converted, names, case)]
    if compiled is not None:
        results.append(run_served(compiled, names, case.converted_feeds))
    decided = dependences(original)
    checks = []
    for name in names:
        alone = [(mine[name], theirs[name]) for mine, theirs in zip(expected, optimised, strict=True)]
        runs = [_pairs(case, name, expected, got) for got in results]
        checks.append(judge(name, runs, alone, kind, decided[name]))
    return tuple(checks)


def _run_original(
    model: onnx.ModelProto, names: list[str], case: PackedCase, *, optimise: bool
) -> list[dict[str, Array]]:
    session = engine_session(model, optimise=optimise)  # one at a time: each holds a copy of the weights
    if not case.layouts:
        return [run_session(session, names, feeds) for feeds in case.original_feeds]
    shapes = {item.name: item.shape for item in session.get_inputs()}
    return [run_session(session, names, as_declared(feeds, shapes)) for feeds in case.original_feeds]


def _run_written(converted: onnx.ModelProto, names: list[str], case: PackedCase) -> dict[str, Array]:
    exact = with_exact_products(converted)
    if exact is not converted:
        logger.warning(
            "this CPU has no 8-bit dot products: the check is of the model as it is compiled; "
            "in stock onnxruntime the converted one may overflow here, unless it was made with reduce_range=True"
        )
    return run_session(engine_session(exact), names, case.converted_feeds)


def _compiled(converted: onnx.ModelProto) -> Executable | None:
    try:
        return compile_quietly(converted)
    except CompileError as error:
        logger.warning("the check is of the model as it is written alone, for it cannot be compiled: %s", error)
        return None


def _pairs(
    case: PackedCase, name: str, expected: list[dict[str, Array]], got: Mapping[str, Array]
) -> list[tuple[Array, Array]]:
    return [case.pair(name, mine[name], got[name], index) for index, mine in enumerate(expected)]


def _rounds(model: onnx.ModelProto) -> bool:
    """Whether a model rounds activations to whole numbers itself."""
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return any(rounds_to_8_bits(node) for body in bodies for node in walk_nodes(body))


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
