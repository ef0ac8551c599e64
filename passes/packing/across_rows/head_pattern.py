"""``pack_args head_pattern``: what the user says of the per-sample head, beside what the axes show of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from passes.base import node_label
from passes.graph_io import export_weightless
from passes.packing.tokens.sides import PlacedGraph
from passes.pattern import PatternMatcher

logger = logging.getLogger("poprt")

_MOST_NAMED = 3


def report_head(placed: PlacedGraph, pattern: Sequence[str]) -> None:
    """Log where ``pattern`` matches and where the head starts by its axes; a pattern that matches nothing is a warning.

    The rewrite follows the axes either way. An empty pattern reports nothing.
    """
    if not pattern:
        return
    text = ", ".join(pattern)
    matcher = PatternMatcher(pattern)
    match = matcher.next_pattern(export_weightless(placed.graph, 0).graph)
    if match is None:
        logger.warning("pack_args head_pattern %r matches no nodes of this model", text)
        return
    nodes = [placed.graph.nodes[match[label].index] for label in matcher.pattern.node_labels]
    starts = [node_label(node) for node in head_starts(placed)]
    shown = ", ".join(starts[:_MOST_NAMED]) + (f" and {len(starts) - _MOST_NAMED} more" * (len(starts) > _MOST_NAMED))
    logger.info(
        "pack_args head_pattern %r matches %s; it is not needed: by its axes the per-sample head starts at %s",
        text,
        ", ".join(map(node_label, nodes)),
        shown or "the outputs",
    )


def head_starts(placed: PlacedGraph) -> list[gs.Node]:
    """The first nodes that run on single samples and feed no packed node any more, directly or through others."""
    feeds_packed: set[int] = set()
    for node in reversed(placed.graph.nodes):
        consumers = [consumer for tensor in node.outputs for consumer in tensor.outputs]
        if any(placed.runs_packed(consumer) or id(consumer) in feeds_packed for consumer in consumers):
            feeds_packed.add(id(node))
    return [
        node
        for node in placed.graph.nodes
        if not placed.runs_packed(node)
        and id(node) not in feeds_packed
        and any(placed.axes.axes(t) and t.inputs and placed.runs_packed(t.inputs[0]) for t in node.inputs)
    ]
