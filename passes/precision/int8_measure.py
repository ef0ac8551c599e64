"""What int8 costs in accuracy, measured by running the graph in onnxruntime on sample data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray

from passes.base import PassResult
from passes.errors import RewriteError
from passes.graph_io import export_weightless
from passes.precision.int8_sites import find_products
from passes.precision.int8_values import MIDDLE, QuantisedWeights, best_zero_point
from passes.precision.int8_writer import Int8Writer
from passes.precision.names import tensor_names, unique_name

Arrays = Mapping[str, NDArray[Any]]

_LARGEST_CONSTANT = 64  # elements; larger ones are fed, so that no copy of the weights is serialised


def run_graph(graph: gs.Graph, feeds: Arrays) -> dict[str, NDArray[Any]]:
    """Run ``graph`` once with the engine's optimiser off; outputs by name.

    Raises:
        RewriteError: the engine cannot run the graph on this data.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    weights = {
        tensor.name: tensor.values
        for tensor in graph.tensors().values()
        if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) > _LARGEST_CONSTANT
    }
    model = export_weightless(graph, _LARGEST_CONSTANT)
    names = [tensor.name for tensor in graph.outputs]
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, {**feeds, **weights}), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise RewriteError(f"the graph cannot be run on the sample data: {error}") from error


def choose_zero_points(graph: gs.Graph, feeds: Arrays) -> tuple[dict[str, int], dict[str, NDArray[Any]]]:
    """The best zero point for each activation of a product, by its name; and the graph's own outputs."""
    probe = graph.copy()
    activations = {site.activation.name: site.activation for site in find_products(probe, PassResult())}
    writer = Int8Writer(probe, QuantisedWeights())
    own, ends = len(probe.outputs), []
    for name, tensor in activations.items():
        nodes, high, low = writer.extremes(tensor)
        probe.nodes.extend(nodes)
        probe.outputs += [high, low]
        ends.append((name, high.name, low.name))
    outputs = run_graph(probe, feeds)
    points = {name: best_zero_point(np.ravel(outputs[high]), np.ravel(outputs[low])) for name, high, low in ends}
    return points, {tensor.name: outputs[tensor.name] for tensor in probe.outputs[:own]}


def product_errors(graph: gs.Graph, feeds: Arrays, points: Mapping[str, int], weights: QuantisedWeights) -> list[float]:
    """For each product of ``graph``, quantised alone: norm of its error over the norm of its result.

    Each gets a second, quantised computation of the same activation beside it, and two sums of squares as outputs.
    """
    probe = graph.copy()
    sites = find_products(probe, PassResult())
    writer, taken = Int8Writer(probe, weights), tensor_names(probe)
    probe.outputs = []
    for site in sites:
        exact = site.node.outputs[0]
        rounded = gs.Variable(unique_name(f"{exact.name}_rounded", taken), np.float32)
        probe.nodes.extend(writer.product(site, points.get(site.activation.name, MIDDLE), rounded))
        error = gs.Variable(unique_name(f"{exact.name}_error", taken), np.float32)
        probe.nodes.append(gs.Node("Sub", error.name, inputs=[exact, rounded], outputs=[error]))
        probe.outputs += [_sum_of_squares(probe, tensor, taken) for tensor in (error, exact)]
    sums = list(run_graph(probe, feeds).values())
    return [_ratio(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]


def _sum_of_squares(graph: gs.Graph, tensor: gs.Tensor, taken: set[str]) -> gs.Variable:
    total = gs.Variable(unique_name(f"{tensor.name}_squares", taken), np.float32, ())
    graph.nodes.append(gs.Node("ReduceSumSquare", total.name, {"keepdims": 0}, [tensor], [total]))
    return total


def _ratio(error: NDArray[Any], whole: NDArray[Any]) -> float:
    if not np.isfinite(error) or not np.isfinite(whole):
        return math.inf
    return math.sqrt(float(error) / float(whole)) if float(whole) > 0 else 0.0


def compare_outputs(expected: Arrays, got: Arrays) -> dict[str, tuple[float, float]]:
    """For each float output its cosine and largest difference, over the values that are finite in both."""
    found = {}
    for name, mine in expected.items():
        if mine.dtype.kind != "f":
            continue
        a, b = (np.ravel(array).astype(np.float64) for array in (mine, got[name]))
        both = np.isfinite(a) & np.isfinite(b)
        a, b = a[both], b[both]
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        found[name] = (float(a @ b) / norms if norms else 1.0, float(np.abs(a - b).max(initial=0.0)))
    return found
