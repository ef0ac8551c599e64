"""The last packs and requests of a model, and how much it has done: what the page shows."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

from poprt.runtime.observation import PackObservation

#: Packs that are kept.
PACKS = 24
#: Requests whose times are kept.
REQUESTS = 2048
#: Seconds after which the time of a request no longer counts.
WINDOW = 60.0


@dataclass
class Totals:
    """What a model has done since the server started.

    Attributes:
        requests: that were answered.
        packs, failed_packs: that ran, and that failed.
        texts, tokens: of the packs that ran.
        padded_tokens: that those would have, each padded to its longest text.
        engine_seconds: that those spent in the engine, of all lanes together.
    """

    requests: int = 0
    packs: int = 0
    failed_packs: int = 0
    texts: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    engine_seconds: float = 0.0


class Recent:
    """Of one model. Lanes call :meth:`ran`, each in its thread; the event loop calls the rest."""

    def __init__(self) -> None:
        self._packs: deque[tuple[int, PackObservation]] = deque(maxlen=PACKS)
        self._requests: deque[tuple[float, float]] = deque(maxlen=REQUESTS)
        self._totals = Totals()
        self._number = 0
        self._lock = threading.Lock()

    def answered(self, now: float, seconds: float) -> None:
        """Note a request that was answered at ``now`` (``time.perf_counter()``), after ``seconds``."""
        self._totals.requests += 1
        self._requests.append((now, seconds))

    def ran(self, pack: PackObservation) -> None:
        """Note a pack."""
        tokens, padded, totals = pack.tokens, pack.padded_tokens, self._totals
        with self._lock:
            self._number += 1
            self._packs.append((self._number, pack))
            if pack.error is not None:
                totals.failed_packs += 1
                return
            totals.packs += 1
            totals.texts += pack.samples
            totals.tokens += tokens
            totals.padded_tokens += padded
            totals.engine_seconds += pack.engine_seconds

    def totals(self) -> Totals:
        """A copy."""
        with self._lock:
            return replace(self._totals)

    def packs(self) -> list[tuple[int, PackObservation]]:
        """The last packs with their numbers, the oldest first. Numbers count from 1."""
        with self._lock:
            return list(self._packs)

    def durations(self, now: float) -> list[float]:
        """Seconds of the requests that were answered within :data:`WINDOW`, sorted. At most :data:`REQUESTS`."""
        return sorted(seconds for ended, seconds in self._requests if ended > now - WINDOW)
