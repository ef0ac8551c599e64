"""What int8 does to a model's outputs on sample data, told in the report and warned of where it is much."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from passes.base import PassResult
from passes.graph_io import export_graph
from passes.precision.int8_measure import Arrays, compare_outputs, open_extents

#: Runs a model as an engine does that rewrites it first: the model, its feeds -> outputs by name.
RunOptimised = Callable[[onnx.ModelProto, Arrays], Arrays]

#: An output whose cosine is below is warned of: where int8 does well, encoders keep 0.995 and more.
LEAST_COSINE = 0.99
#: How the report calls the cosine of an output that the engine's optimiser alone gives.
BY_OPTIMISER = "by the optimiser alone"

_ADVICE = "judge it on data of your own. Where the model rounds by itself a small change tips many roundings"

logger = logging.getLogger("poprt")


def report_accuracy(measured: Mapping[str, tuple[float, float]], result: PassResult) -> None:
    """Put each output's cosine and largest difference into ``result``."""
    for name, (cosine, difference) in measured.items():
        if math.isnan(cosine):
            result.details[f"cosine of {name}"] = "not comparable: its extents depend on values"
            continue
        result.details[f"cosine of {name}"] = f"{cosine:.6f}"
        result.details[f"largest difference of {name}"] = f"{difference:.3g}"


def low_cosines(measured: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The outputs to warn of. NaN, which is not comparable, is none."""
    return {name: cosine for name, (cosine, _) in measured.items() if cosine < LEAST_COSINE}


def warn_of_low_cosines(low: Mapping[str, float], optimised: Mapping[str, float], result: PassResult) -> None:
    """Warn of each output of ``low``; say beside it what the engine's optimiser alone does, where that is known."""
    for name, cosine in low.items():
        alone = "; --check tells what onnxruntime's optimiser alone moves"
        if name in optimised:
            result.details[f"cosine of {name} {BY_OPTIMISER}"] = f"{optimised[name]:.6f}"
            alone = f": onnxruntime's optimiser alone moves this one to a cosine of {optimised[name]:.3f}"
        logger.warning(
            "int8 moves output %r to a cosine of %.3f on the sample data, below %.2f: %s%s",
            name,
            cosine,
            LEAST_COSINE,
            _ADVICE,
            alone,
        )


def cosines_when_optimised(
    original: gs.Graph, run_optimised: RunOptimised, feeds: Arrays, expected: Arrays
) -> dict[str, float]:
    """How far the engine's optimiser alone moves each output from ``expected``; empty where it cannot be run.

    The weights are in the model here: the optimiser rewrites little around weights that are fed.
    """
    model = export_graph(original)
    open_extents(model.graph.input, model.graph.output)
    del model.graph.value_info[:]
    try:
        outputs: Mapping[str, Any] = run_optimised(model, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        logger.debug("the model cannot be run with onnxruntime's optimiser: %s", error)
        return {}
    cosines = {name: cosine for name, (cosine, _) in compare_outputs(expected, outputs).items()}
    return {name: cosine for name, cosine in cosines.items() if not math.isnan(cosine)}
