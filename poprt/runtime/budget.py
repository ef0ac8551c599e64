"""How many tokens a pack should aim at on this machine: found by running a few packs of ones and zeros."""

from __future__ import annotations

import logging
import time

import numpy as np

from poprt.executable import Manifest, PackingSpec
from poprt.runtime.across_rows_session import AcrossRowsSession

logger = logging.getLogger("poprt")

#: Pack sizes to try, in tokens. Below, the engine's matrix products are too small; above, activations leave the caches.
CANDIDATES = (256, 512, 1024, 2048)
#: A larger pack must be faster by this factor to be worth its longer wait.
WORTHWHILE = 1.03
#: Seconds after which no further size is tried.
PATIENCE = 1.5
_SAMPLE_LENGTH = 64


def find_token_budget(session: AcrossRowsSession, manifest: Manifest, packing: PackingSpec, max_count: int) -> int:
    """The smallest pack size, in tokens, that is about as fast a token as the fastest.

    Runs the engine for about ``PATIENCE`` seconds. Sizes beyond the executable's capacity are not tried.
    """
    capacity = packing.rows * packing.columns
    length = min(_SAMPLE_LENGTH, packing.segment_max_size[0], capacity)
    sizes = [size for size in CANDIDATES if size <= min(capacity, max_count * length)] or [min(capacity, CANDIDATES[0])]
    started = time.perf_counter()
    _run(session, manifest, packing, sizes[0], length)  # the first run allocates
    best, rate = sizes[0], 0.0
    for size in sizes:
        seconds = min(_run(session, manifest, packing, size, length) for _ in range(2))
        if size / seconds > rate * WORTHWHILE:
            best, rate = size, size / seconds
        if time.perf_counter() - started + 4 * seconds > PATIENCE:  # two runs of twice the size
            break
    logger.debug("token budget %d: %.0f tokens/s", best, rate)
    return best


def _run(session: AcrossRowsSession, manifest: Manifest, packing: PackingSpec, size: int, length: int) -> float:
    lengths = np.full((max(1, size // length), 1), length, np.int32)
    total = int(lengths.sum())
    dtypes = {spec.name: spec.engine_dtype for spec in manifest.inputs}
    streams = {name: np.full(total, 1 if name == packing.mask else 0, dtypes[name]) for name in packing.dynamic_inputs}
    started = time.perf_counter()
    session.run(streams, lengths, list(packing.outputs))
    return time.perf_counter() - started
