"""Say where an answer depends on what it is served with."""

from __future__ import annotations

import logging

from poprt.manifest import Manifest

logger = logging.getLogger("poprt")


def announce_shared_scales(manifest: Manifest) -> None:
    """Warn a runner that puts requests together where the samples of a run share scales."""
    nodes = manifest.shared_scales
    if nodes:
        logger.warning(
            "requests of this executable that share a run move each other's answers: %d nodes (%s%s) quantise with one "
            "scale for all of it. Convert its model with --requantize",
            len(nodes),
            nodes[0],
            ", …" if len(nodes) > 1 else "",
        )
