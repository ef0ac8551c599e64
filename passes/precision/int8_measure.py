"""What int8 costs in accuracy, measured on sample data.

The graph runs once in float32, in onnxruntime, and gives its outputs and some rows of each activation. What a product
loses is then computed from these rows alone, so the work hardly grows with the batch that a model declares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.building import add_node
from passes.errors import RewriteError
from passes.graph_io import export_weightless
from passes.precision.int8_sites import Product
from passes.precision.int8_values import Floats, QuantisedWeights, Rounding
from passes.precision.names import tensor_names, unique_name
from passes.precision.unsign_weights import UnsignWeights
from passes.reference_session import reference_session

Arrays = Mapping[str, NDArray[Any]]

_LARGEST_CONSTANT = 64  # elements; larger ones are fed, so that no copy of the weights is serialised
#: Rows of an activation that are looked at where few tell as much as many.
FEW_ROWS = 128
_MOST_BYTES = 400_000_000  # of the rows of all activations


def run_graph(graph: gs.Graph, feeds: Arrays) -> dict[str, NDArray[Any]]:
    """Run ``graph`` once with the engine's optimiser off; outputs by name. The feeds may be smaller than declared.

    Products of uint8 by int8 are exact, as in an executable, on CPUs whose own kernel for them may overflow too.

    Raises:
        RewriteError: the engine cannot run the graph on this data.
    """
    return next(_run_each(graph, [feeds]))


def _run_each(graph: gs.Graph, runs: Iterable[Arrays]) -> Iterator[dict[str, NDArray[Any]]]:
    """The outputs of :func:`run_graph` for each run."""
    graph = graph.copy()
    UnsignWeights().apply(graph)
    weights = {
        tensor.name: tensor.values
        for tensor in graph.tensors().values()
        if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) > _LARGEST_CONSTANT
    }
    model = export_weightless(graph, _LARGEST_CONSTANT)
    open_extents([value for value in model.graph.input if value.name not in weights], model.graph.output)
    names = [tensor.name for tensor in graph.outputs]
    try:
        session = reference_session(model)
        for feeds in runs:
            yield dict(zip(names, session.run(names, {**feeds, **weights}), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise RewriteError(f"the graph cannot be run on the sample data: {error}") from error


def open_extents(inputs: Iterable[onnx.ValueInfoProto], outputs: Iterable[onnx.ValueInfoProto]) -> None:
    """Let a graph be run on feeds that are smaller than it declares."""
    for value in inputs:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    for value in outputs:
        value.type.tensor_type.ClearField("shape")


def observe(
    graph: gs.Graph, products: Sequence[Product], runs: Sequence[Arrays], most: int = FEW_ROWS
) -> tuple[dict[str, NDArray[Any]], dict[str, Floats]]:
    """Run ``graph`` on sample data.

    Args:
        graph: stays as it is.
        products: those whose activations are looked at.
        runs: the feeds of each run. The last of several gives the outputs, the others the rows.
        most: of each activation about so many rows are taken, two thirds to twice as many; fewer where all of them
            would take more than 400 MB.

    Returns:
        The model's outputs, and rows of each activation by its name, float32 [rows, columns].

    Raises:
        RewriteError: the engine cannot run the graph on this data.
    """
    probe = graph.copy()
    tensors, taken = probe.tensors(), tensor_names(probe)
    outputs = [tensor.name for tensor in probe.outputs]
    activations = {site.activation.name: site for site in products}
    bytes_of_row = 4 * sum(site.matrix().shape[0] for site in activations.values())
    most = max(1, min(most, _MOST_BYTES // max(bytes_of_row, 1)) // max(len(runs) - 1, 1))
    names = {}
    for name, site in activations.items():
        rows = _some_rows(probe, tensors[name], site.weight.dtype, taken, most)
        probe.outputs.append(rows)
        names[name] = rows.name
    results = list(_run_each(probe, runs))
    told = results[:-1] or results
    rows_by_name = {
        name: np.concatenate([result.pop(rows) for result in told]).astype(np.float32, copy=False)
        for name, rows in names.items()
    }
    return {name: results[-1][name] for name in outputs}, rows_by_name


def _some_rows(graph: gs.Graph, tensor: gs.Tensor, dtype: np.dtype[Any], taken: set[str], most: int) -> gs.Variable:
    """Every n-th row of ``tensor``, in its type; n is odd: rows from all columns of a batch of [2^a, 2^b] tokens."""

    def add(op: str, *inputs: gs.Tensor, dtype: Any = np.int64, **attrs: Any) -> gs.Variable:
        return add_node(graph.nodes, op, unique_name(f"{tensor.name}_{op}", taken), inputs, dtype, **attrs)

    def whole(number: int) -> gs.Constant:
        return gs.Constant(unique_name(f"{tensor.name}_{number}", taken), np.array([number], np.int64))

    zero, one = whole(0), whole(1)
    rows = add("Flatten", tensor, dtype=dtype, axis=-1)
    count = add("Slice", add("Shape", rows), zero, one)
    pairs = add("Div", count, whole(2 * most))
    step = add("Add", add("Mul", pairs, whole(2)), one)
    return add("Slice", rows, zero, count, zero, step, dtype=dtype)


def product_error(site: Product, rows: Floats, rounding: Rounding, weights: QuantisedWeights) -> float:
    """Norm of what int8 changes in the product of ``rows``, over the norm of the product; infinite if not finite."""
    matrix = site.matrix()
    levels, scale = weights.columns(*site.weight_key, matrix)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = rows @ matrix
        error = (rounding.rounded(rows) @ levels.astype(np.float32)) * scale - exact
        return _ratio(float(np.linalg.norm(error)), float(np.linalg.norm(exact)))


def _ratio(error: float, whole: float) -> float:
    if not math.isfinite(error) or not math.isfinite(whole):
        return math.inf
    return error / whole if whole > 0 else 0.0


def compare_outputs(expected: Arrays, got: Arrays) -> dict[str, tuple[float, float]]:
    """For each float output its cosine and largest difference, over the values that are finite in both.

    Both are NaN where an output has another size than before: its extents depend on values, so nothing is comparable.
    """
    measures = {}
    for name, mine in expected.items():
        if mine.dtype.kind != "f":
            continue
        if mine.size != got[name].size:
            measures[name] = (math.nan, math.nan)
            continue
        a, b = (np.ravel(array).astype(np.float64) for array in (mine, got[name]))
        both = np.isfinite(a) & np.isfinite(b)
        a, b = a[both], b[both]
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        measures[name] = (float(a @ b) / norms if norms else 1.0, float(np.abs(a - b).max(initial=0.0)))
    return measures
