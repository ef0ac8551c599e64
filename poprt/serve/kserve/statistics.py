"""What the protocol's statistics say of a model: requests that came by it, counted since the server started."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from poprt.serve.calls import Call


@dataclass
class Duration:
    """How often something was done, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += round(seconds * 1e9)

    def fields(self) -> dict[str, int]:
        """As the protocol writes it."""
        return {"count": self.count, "ns": self.ns}


@dataclass
class Statistics:
    """Of one model. The event loop alone writes it.

    Attributes:
        samples: texts or rows that were answered.
        last: milliseconds since 1970 at which a request came last; 0 before the first.
        success, fail: requests, from their arrival to the answer.
        queue, compute_input, compute_infer: of those that were answered: waiting for a pack, tokenising, the engine.
    """

    samples: int = 0
    last: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)

    def answered(self, call: Call, samples: int) -> None:
        """Count a request that was answered."""
        self.last = round(time.time() * 1e3)
        self.samples += samples
        self.success.add(time.perf_counter() - call.started)
        self.queue.add(call.queue_seconds)
        self.compute_input.add(call.tokenization_seconds)
        self.compute_infer.add(call.inference_seconds)

    def failed(self, call: Call) -> None:
        """Count a request that got an error, or whose client went away."""
        self.last = round(time.time() * 1e3)
        self.fail.add(time.perf_counter() - call.started)

    def durations(self) -> dict[str, Any]:
        """The field ``inference_stats``."""
        names = ("success", "fail", "queue", "compute_input", "compute_infer")
        return {name: getattr(self, name).fields() for name in names}
