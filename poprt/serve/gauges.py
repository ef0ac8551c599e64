"""What waits and what runs, at the moment when somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from poprt.serve.models import ServedModel

#: Name -> what it says.
GAUGES = {
    "poprt_queue_requests": "Texts that wait for a pack.",
    "poprt_queue_tokens": "Tokens that wait for a pack.",
    "poprt_lanes_busy": "Packs that run.",
}
#: Seconds between two looks of a process at its own queues, where others answer for it.
EVERY = 0.5


def levels(model: ServedModel) -> tuple[int, int, int]:
    """The value of each of :data:`GAUGES`."""
    pending = model.runner.pending()
    return pending.requests, pending.tokens, model.runner.running()


class QueueCollector(Collector):
    """Asks the runners when it is asked."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Each gauge, with a value a model."""
        families = [GaugeMetricFamily(name, text, labels=["model"]) for name, text in GAUGES.items()]
        for name, model in self._models.items():
            for family, value in zip(families, levels(model), strict=True):
                family.add_metric([name], value)
        yield from families


class SharedGauges:
    """Gauges of one of several processes. Each writes down its own: any may be asked for all."""

    def __init__(self, models: Mapping[str, ServedModel], registry: CollectorRegistry) -> None:
        gauges = [
            Gauge(name, text, ("model",), registry=registry, multiprocess_mode="livesum")
            for name, text in GAUGES.items()
        ]
        self._rows = [(model, [gauge.labels(name).set for gauge in gauges]) for name, model in models.items()]
        self._ended = threading.Event()
        self.update()
        threading.Thread(target=self._write, name="poprt-gauges", daemon=True).start()

    def update(self) -> None:
        """Write the values of now."""
        for model, setters in self._rows:
            for write, value in zip(setters, levels(model), strict=True):
                write(value)

    def close(self) -> None:
        """Write no more."""
        self._ended.set()

    def _write(self) -> None:
        while not self._ended.wait(EVERY):
            self.update()
