"""One look at a model on sample data, before anything is changed: at the cheapest extents that it can be run at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from passes.errors import RewriteError
from passes.precision.int8_measure import Arrays, observe
from passes.precision.int8_samples import Extents, extents_to_try
from passes.precision.int8_sites import Product
from passes.precision.int8_values import Floats

#: Feeds for a model of which only the inputs and the metadata are given; several for several runs.
SampleData = Callable[[onnx.ModelProto], Arrays | Sequence[Arrays]]

logger = logging.getLogger("poprt")


@dataclass(frozen=True)
class Observation:
    """What runs on sample data have shown.

    Attributes:
        extents: what the model was run at.
        feeds: of the last run.
        outputs: of the last run.
        rows: of the activations of products, by name; of several runs, those of all but the last.
    """

    extents: Extents
    feeds: Arrays
    outputs: Arrays
    rows: Mapping[str, Floats]


def observe_model(graph: gs.Graph, products: Sequence[Product], data: SampleData, most_rows: int) -> Observation:
    """The behaviour of a model on sample data.

    Args:
        graph: stays as it is.
        products: those whose activations are looked at.
        data: where the feeds come from.
        most_rows: how many rows of each activation, about.

    Raises:
        RewriteError: it cannot be run on this data, at its own extents either.
    """
    *smaller, declared = extents_to_try(graph)
    for extents in smaller:
        try:
            return _run_at(extents, graph, products, data, most_rows)
        except RewriteError as error:  # something inside depends on the declared extents
            logger.debug("int8 is measured at larger extents: %s", error)
    return _run_at(declared, graph, products, data, most_rows)


def _run_at(
    extents: Extents, graph: gs.Graph, products: Sequence[Product], data: SampleData, most_rows: int
) -> Observation:
    feeds = data(extents.signature)
    runs = [feeds] if isinstance(feeds, Mapping) else feeds
    return Observation(extents, runs[-1], *observe(extents.graph(graph), products, runs, most_rows))
