"""What is counted for Prometheus: requests, packs, and what waits. Times are seconds."""

from __future__ import annotations

import math
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import onnxruntime
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from poprt.runtime.observation import PackObservation
from poprt.serve.environment import METRICS_DIR
from poprt.serve.gauges import QueueCollector, SharedGauges
from poprt.serve.recent import Recent
from poprt.version import VERSION

if TYPE_CHECKING:
    from poprt.serve.calls import Call
    from poprt.serve.models import ServedModel

#: From 10 us, each 1.5 times the one before, to a minute.
SECONDS = tuple(float(f"{1e-5 * 1.5**step:.3g}") for step in range(40))
#: Powers of two, for what is counted.
COUNTS = tuple(float(2**power) for power in range(17))
#: Most endpoints that have a label of their own; the application has fewer routes.
MOST_ENDPOINTS = 100
#: The label of what is not told apart.
OTHER = "other"
#: Statuses from which a request counts as not answered.
_FAILED = 400


class Metrics:
    """Counts for ``GET /metrics``, and for the page.

    Where several processes serve, ``PROMETHEUS_MULTIPROC_DIR`` is set before prometheus_client is imported. Each writes
    its counts to files there, and :meth:`exposition` adds those of all.

    Args:
        registry: where the metrics are registered; None makes one, with the figures of the process.

    Attributes:
        recent: the last packs and requests, of this process.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._shared = bool(os.environ.get(METRICS_DIR))
        self.recent: dict[str, Recent] = {}
        self._registry = registry or CollectorRegistry()
        if registry is None and not self._shared:
            ProcessCollector(registry=self._registry)
        self._define()
        self._endpoints: set[str] = set()
        self._timed: dict[tuple[str, str], Callable[[Call], None]] = {}
        self._codes: dict[tuple[str, int], Callable[[], None]] = {}
        self._gauges: SharedGauges | None = None

    def _define(self) -> None:
        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return _Histogram(f"poprt_{name}", text, labels, buckets=buckets, registry=self._registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"poprt_{name}", text, labels, registry=self._registry)

        of = ("model", "endpoint")
        self._durations = (
            histogram("request_duration_seconds", "From a request's arrival to its answer.", *of),
            histogram("request_tokenization_duration_seconds", "Tokenising the texts of a request.", *of),
            histogram("request_queue_duration_seconds", "How long a request waited for a pack.", *of),
            histogram("request_inference_duration_seconds", "Running the packs of a request.", *of),
        )
        self._input_tokens = histogram("request_input_tokens", "Tokens of a request.", *of, buckets=COUNTS)
        self._pack_samples = histogram("pack_samples", "Texts that shared a run.", "model", buckets=COUNTS)
        self._pack_tokens = histogram("pack_tokens", "Tokens of a run.", "model", buckets=COUNTS)
        self._requests = counter("requests", "Requests that were answered or refused.", "endpoint", "code")
        self._cancelled = counter("cancelled", "Texts that left the queue unanswered.", "model")
        saved = "Tokens that runs would have had more, each padded to its longest text."
        self._saved = counter("padding_saved_tokens", saved, "model")
        build = Gauge(
            "poprt_build_info",
            "Versions, as labels.",
            ("version", "onnxruntime"),
            registry=self._registry,
            multiprocess_mode="max",
        )
        build.labels(VERSION, onnxruntime.__version__).set(1)

    def finished(self, call: Call, status: int) -> None:
        """Count a request that is over.

        Every request is counted by its status. Times and tokens are those of requests that were answered: the moment
        that it takes to refuse one would hide how long the others take.

        Args:
            call: the request.
            status: of HTTP; a gRPC status is that which HTTP has for it.
        """
        key = (call.endpoint, status)
        count = self._codes.get(key)
        if count is None:
            count = self._codes[key] = self._requests.labels(self._endpoint(call.endpoint), str(status)).inc
        count()
        if status < _FAILED and call.model in self.recent:
            place = (call.model, call.endpoint)
            timed = self._timed.get(place)
            if timed is None:
                timed = self._timed[place] = self._timer(*place)
            timed(call)

    def pack_observer(self, model: str) -> Callable[[PackObservation], None]:
        """A function for ``observer=`` of the runner of a model."""
        recent = self._recent(model)
        samples, tokens = (metric.labels(model).observe for metric in (self._pack_samples, self._pack_tokens))
        saved = self._saved.labels(model).inc

        def observe(pack: PackObservation) -> None:
            if pack.error is None:
                count = pack.tokens
                samples(pack.samples)
                tokens(count)
                saved(pack.padded_tokens - count)
            recent.ran(pack)

        return observe

    def cancelled(self, model: str, count: int) -> None:
        """Count texts that were taken out of the queue: their client has gone, or their time was up."""
        if model in self.recent:
            self._cancelled.labels(model).inc(count)

    def watch(self, models: Mapping[str, ServedModel]) -> None:
        """Show what waits for each model and how many of its lanes are busy, whenever somebody asks."""
        for name in models:
            self._recent(name)
            self._cancelled.labels(name)
        if self._shared:
            self._gauges = SharedGauges(models, self._registry)
        else:
            self._registry.register(QueueCollector(models))

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What ``GET /metrics`` answers.

        Args:
            accept: the request's header ``Accept``: Prometheus asks for OpenMetrics in it.

        Returns:
            The body, and its content type.
        """
        registry = self._registry
        if self._shared:
            if self._gauges is not None:
                self._gauges.update()  # of this process; the others write theirs by themselves
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version of OpenMetrics that is none
            encode, content_type = choose_encoder("")
        return encode(registry), content_type

    def close(self) -> None:
        """End what writes the gauges of several processes."""
        if self._gauges is not None:
            self._gauges.close()

    def _recent(self, model: str) -> Recent:
        return self.recent.setdefault(model, Recent())

    def _endpoint(self, endpoint: str) -> str:
        """The label of an endpoint: whatever comes, there are few of them."""
        if endpoint not in self._endpoints:
            if len(self._endpoints) >= MOST_ENDPOINTS:
                return OTHER
            self._endpoints.add(endpoint)
        return endpoint or OTHER

    def _timer(self, model: str, endpoint: str) -> Callable[[Call], None]:
        """A function that counts the times and tokens of a request: its metrics are looked up once."""
        labels = (model, self._endpoint(endpoint))
        whole, tokenization, queue, inference = (metric.labels(*labels).observe for metric in self._durations)
        tokens = self._input_tokens.labels(*labels).observe
        answered, clock = self.recent[model].answered, time.perf_counter

        def timed(call: Call) -> None:
            now = clock()
            seconds = now - call.started
            whole(seconds)
            tokenization(call.tokenization_seconds)
            queue(call.queue_seconds)
            inference(call.inference_seconds)
            tokens(call.input_tokens)
            answered(now, seconds)

        return timed


class _Histogram(Histogram):
    """prometheus_client's, which looks at one bucket after the other: 40 of them take longer than all the rest."""

    def observe(self, amount: float, exemplar: Any = None) -> None:
        """Count one observation. Exemplars are not kept."""
        if not math.isnan(amount):
            self._sum.inc(amount)
            self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)
