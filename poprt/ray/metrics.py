"""The metrics of a replica, told to Ray, whose agent on each node exports them with ``ray_`` before their names."""

from __future__ import annotations

import threading
from typing import Any

from prometheus_client import CollectorRegistry
from ray.serve.metrics import Gauge

from poprt.serve.metrics import Metrics

#: Seconds between two tellings; Ray's agent exports every 10.
EVERY = 5.0


class ExportedMetrics(Metrics):
    """Counts as a server does, and tells Ray the values from time to time.

    ``GET /metrics`` reaches one replica, as any request does; Ray knows them apart by its labels ``deployment``,
    ``replica`` and ``application``. Each sample is a gauge to Ray, buckets of histograms too: queries stay as they are.
    """

    def __init__(self) -> None:
        self._own = CollectorRegistry()
        super().__init__(self._own)
        self._gauges_of_ray: dict[str, Any] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._tell, name="poprt-ray-metrics", daemon=True).start()

    def tell(self) -> None:
        """Tell Ray the values of now."""
        for family in self._own.collect():
            for sample in family.samples:
                if sample.name.endswith("_created"):  # a time, of which nobody makes a graph
                    continue
                if sample.name not in self._gauges_of_ray:
                    gauge = Gauge(sample.name, family.documentation, tuple(sample.labels))
                    self._gauges_of_ray[sample.name] = gauge
                self._gauges_of_ray[sample.name].set(sample.value, dict(sample.labels))

    def close(self) -> None:
        """Tell no more."""
        self._ended.set()
        super().close()

    def _tell(self) -> None:
        while not self._ended.wait(EVERY):
            self.tell()
