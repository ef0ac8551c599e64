"""Float weights to int8."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.cleanup.rewiring import onnx_dtype
from passes.element_sizes import stored_bytes
from passes.errors import RewriteError
from passes.graph_io import copy_graph, header
from passes.precision.int8_accuracy import (
    RunOptimised,
    cosines_when_optimised,
    low_cosines,
    report_accuracy,
    warn_of_low_cosines,
)
from passes.precision.int8_folding import fold_factors
from passes.precision.int8_kinds import product_kinds, show_kinds
from passes.precision.int8_measure import FEW_ROWS, compare_outputs, run_graph
from passes.precision.int8_observation import Observation, SampleData, observe_model
from passes.precision.int8_plan import Plan, plan_blindly, plan_on_rows
from passes.precision.int8_sites import Product, Table, find_products, find_tables, refuse_nested
from passes.precision.int8_values import FULL_RANGE, REDUCED_RANGE, QuantisedWeights, relative_error
from passes.precision.int8_writer import Int8Writer
from passes.registry import register

Site = TypeVar("Site", Product, Table)

#: Bytes of weights up to which the graph of before is kept, to be run as the engine rewrites it where int8 does badly.
_LARGEST_KEPT = 500_000_000
#: Rows of each activation that are looked at where the data is real, and weights may be fitted to it.
_MANY_ROWS = 2048


#: Where a model says that it was quantised; a second run leaves it alone.
METADATA_KEY = "poprt.int8"
#: How the report calls the products that were quantised, and what the products were before.
PRODUCTS = "products in int8"
#: How the report calls the lookups whose tables were quantised.
TABLES = "table lookups in int8"
#: How it calls the activations whose channels were balanced.
BALANCED = "balanced"
#: How it calls the weights that were rounded with error feedback.
FED_BACK = "weights rounded with error feedback"
KINDS = "products by constant matrices before"


@register("float_to_int8")
class FloatToInt8(GraphPass):
    """Compute the products by constant matrices in int8, and store these matrices and large embedding tables so.

    Weights: int8, symmetric, one scale a column. Activations: quantised as the model runs, uint8, one scale a row
    (token), so that a sample's result does not depend on what else is in its batch or pack. Tables of embeddings:
    int8, one scale a row. Everything else stays float: inputs, outputs, attention, normalisation, biases. Weights in
    float16 are quantised as those in float32 are; the results are float16 then.

    A product stays float32 where int8 does not pay (few columns) or costs too much accuracy. The latter is measured:
    on sample data each product is computed in both ways from the same float activation, and it stays float where the
    error exceeds ``max_error``. Without data only the error of the weight itself is known.

    The result is for CPUs with 8-bit dot products (AVX512-VNNI, AVX-VNNI, Arm dot product). Older x86 engines add two
    8-bit products in 16 bits, which may overflow: ``reduce_range`` keeps weights to 7 bits for them.

    With data, channels are balanced where that pays: divided by factors that their rows of the weights are multiplied
    by. The factors go into the normalisation before, where nothing but such products reads it, else into a Mul before
    the quantisation. With data that is real, not random, weights are rounded with error feedback: what one row's
    rounding changes in the product, the next rows make up for.

    A NaN in an activation is lost: no integer stands for it. Infinite values spoil their own token, as in float32.

    Subgraphs and local functions stay float32 and are reported. Runs once: a quantised model is left alone.

    Args:
        max_error: largest error of a product, relative to its result (norms); also of a table's values.
        reduce_range: use 7 of the 8 bits of a weight.
        data: called with a model that holds only the inputs and the metadata; returns an array for each input. Where
            few tokens tell as much, the extents there are smaller than those of the model; larger arrays do as well. It
            is called again, with the model's own extents, where the graph cannot be run at smaller ones. It may also
            return a list of such, for several runs; the last one then only judges the outputs.
        run_optimised: runs a model with the engine's rewrites. Where int8 moves an output much, the report tells beside
            it what these rewrites alone do to the model before int8, if its weights take less than 500 MB.
        balance: whether channels may be balanced.
        feedback: whether weights may be rounded with error feedback; only where the data is real.
    """

    def __init__(
        self,
        max_error: float = 0.05,
        reduce_range: bool = False,
        data: SampleData | None = None,
        run_optimised: RunOptimised | None = None,
        balance: bool = True,
        feedback: bool = True,
    ) -> None:
        super().__init__()
        if not max_error > 0:
            raise RewriteError(f"max_error must be above 0, not {max_error}; 0.05 allows an error of 5 % a product")
        self.max_error = max_error
        self._limit = REDUCED_RANGE if reduce_range else FULL_RANGE
        self._data = data
        self._run_optimised = run_optimised
        self._balance, self._feedback = balance, feedback
        self._real = data is not None

    def with_data(self, data: SampleData, run_optimised: RunOptimised, *, real: bool = False) -> FloatToInt8:
        """A copy of this pass that has ``data`` and ``run_optimised`` where it has none of its own.

        Args:
            data: as for the pass.
            run_optimised: as for the pass.
            real: whether ``data`` is what the model will meet. Data of the pass's own always counts as real.
        """
        copied = copy.copy(self)
        copied._real = self._real or real
        copied._data = self._data or data
        copied._run_optimised = self._run_optimised or run_optimised
        return copied

    def apply(self, graph: gs.Graph) -> PassResult:
        """Quantise the main graph; say which kinds of products there were where that explains what stayed."""
        result, kinds = PassResult(), product_kinds(graph)
        self._quantise(graph, result)
        if PRODUCTS not in result.counts or set(kinds) - {"float32"}:
            result.details[KINDS] = show_kinds(kinds)
        return result

    def _quantise(self, graph: gs.Graph, result: PassResult) -> None:
        if METADATA_KEY in header(graph).metadata:
            result.refuse("the model", "it is quantised already")
            return
        refuse_nested(graph, result)
        products, tables = find_products(graph, result), find_tables(graph)
        if not products and not tables:
            return
        weights = QuantisedWeights(self._limit)
        seen = self._observe(graph, products)
        if seen is None:
            plan = plan_blindly(products, weights)
        else:
            feedback = self._feedback and self._real
            plan = plan_on_rows(products, seen.rows, weights, balance=self._balance, feedback=feedback)
        kept = self._keep(products, plan.errors, "product", result)
        kept_tables = self._keep(tables, [_table_error(site, weights) for site in tables], "table", result)
        original = copy_graph(graph) if seen and _constant_bytes(graph) < _LARGEST_KEPT else None
        self._rewrite(graph, kept, kept_tables, plan, weights, result)
        if seen and result.modified:
            self._report(seen, graph, original, result)

    def _rewrite(
        self,
        graph: gs.Graph,
        products: list[Product],
        tables: list[Table],
        plan: Plan,
        weights: QuantisedWeights,
        result: PassResult,
    ) -> None:
        """Write the products and tables in int8; say in the report and in the metadata what was done."""
        before = _constant_bytes(graph)
        balanced = {site.activation.name for site in products if plan.rounding(site).factors is not None}
        folded = fold_factors(graph, products, plan)
        if balanced:
            result.details[BALANCED] = f"{len(balanced)} activations, {folded} of them in the normalisation before"
        if plan.fed_back:
            result.details[FED_BACK] = plan.fed_back
        _write(graph, [*products, *tables], Int8Writer(graph, weights), plan, result)
        if result.modified:
            result.details["bytes of weights"] = f"{before} -> {_constant_bytes(graph)}"
            note = {
                "max_error": self.max_error,
                "balanced": len(balanced),
                "feedback": plan.fed_back,
                "data": self._kind_of_data(),
            }
            header(graph).metadata[METADATA_KEY] = json.dumps(note)

    def _kind_of_data(self) -> str:
        if self._data is None:
            return "none"
        return "real" if self._real else "random"

    def _report(self, seen: Observation, graph: gs.Graph, original: gs.Graph | None, result: PassResult) -> None:
        """What int8 did to the outputs; beside a bad figure, what the engine does to them by itself."""
        measured = compare_outputs(seen.outputs, run_graph(seen.extents.graph(graph), seen.feeds))
        report_accuracy(measured, result)
        low = low_cosines(measured)
        optimised: dict[str, float] = {}
        if low and original is not None and self._run_optimised is not None:
            before = seen.extents.graph(original)
            optimised = cosines_when_optimised(before, self._run_optimised, seen.feeds, seen.outputs)
        warn_of_low_cosines(low, optimised, result)

    def _observe(self, graph: gs.Graph, products: list[Product]) -> Observation | None:
        """The model's behaviour on sample data; None where there is no such data."""
        if self._data is None:
            if products:
                self.logger.warning(
                    "float_to_int8 has no sample data: it knows the errors of the weights, not of the results"
                )
            return None
        return observe_model(graph, products, self._data, _MANY_ROWS if self._real else FEW_ROWS)

    def _keep(self, sites: list[Site], errors: list[float], kind: str, result: PassResult) -> list[Site]:
        """The sites whose error is small enough; refusals for the others."""
        kept = []
        for site, error in zip(sites, errors, strict=True):
            if error <= self.max_error:
                kept.append(site)
            elif not math.isfinite(error):
                result.refuse(site.node, "its weight or its result on the sample data is not finite")
            else:
                result.refuse(site.node, f"int8 would change its result by {error:.1%}, more than {self.max_error:.1%}")
        if kept:
            largest = max(error for error in errors if error <= self.max_error)
            result.details[f"largest error of a {kind}"] = f"{largest:.2%}"
        return kept


def _write(
    graph: gs.Graph, sites: Sequence[Product | Table], writer: Int8Writer, plan: Plan, result: PassResult
) -> None:
    """Put the nodes that ``writer`` makes for ``sites`` in the place of theirs."""
    replaced = {id(site.node): site for site in sites}
    nodes = []
    for node in graph.nodes:
        site = replaced.get(id(node))
        if site is None:
            nodes.append(node)
            continue
        output = node.outputs[0]
        node.outputs.clear()
        if isinstance(site, Product):
            nodes += writer.product(site, plan.rounding(site), output)
            result.count(PRODUCTS)
        else:
            nodes += writer.table(site, output)
            result.count(TABLES)
        node.inputs.clear()
    graph.nodes = nodes


def _table_error(site: Table, weights: QuantisedWeights) -> float:
    table = site.weight.values.astype(np.float32, copy=False)
    return relative_error(table, *weights.rows(site.weight.name, table))


def _constant_bytes(graph: gs.Graph) -> int:
    constants = [tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)]
    return sum(
        stored_bytes(math.prod(tensor.shape), onnx_dtype(tensor) or onnx.TensorProto.FLOAT) for tensor in constants
    )
