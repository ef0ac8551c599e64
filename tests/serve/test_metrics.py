"""What is counted, and what a scrape gets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from poprt.runtime import PackObservation
from poprt.runtime.admission import Pending
from poprt.serve.calls import Call
from poprt.serve.environment import METRICS_DIR
from poprt.serve.metrics import COUNTS, MOST_ENDPOINTS, OTHER, SECONDS, Metrics
from poprt.serve.recent import PACKS, REQUESTS, WINDOW, Recent
from tests.serve.page_server import served
from tests.serve.v2_models import text_model

ROOT = Path(__file__).parents[2]
DURATIONS = ("request", "request_tokenization", "request_queue", "request_inference")
NAMES = {
    *(f"poprt_{name}_duration_seconds" for name in DURATIONS),
    "poprt_request_input_tokens",
    "poprt_pack_samples",
    "poprt_pack_tokens",
    "poprt_queue_requests",
    "poprt_queue_tokens",
    "poprt_lanes_busy",
    "poprt_requests",
    "poprt_cancelled",
    "poprt_padding_saved_tokens",
    "poprt_build_info",
}


def call(model: str = "m", endpoint: str = "/embed", **fields: Any) -> Call:
    return Call(endpoint, 0.0, time.perf_counter(), model, **fields)


def observation(*lengths: int, error: BaseException | None = None) -> PackObservation:
    return PackObservation(time.perf_counter(), 0.25, tuple(0.001 * length for length in lengths), lengths, 0, error)


def watched(**pending: tuple[int, int, int]) -> dict[str, Any]:
    """Models by name that have so many requests and tokens waiting, and lanes busy."""

    def model(requests: int, tokens: int, busy: int) -> Any:
        runner = SimpleNamespace(pending=lambda: Pending(requests, tokens), running=lambda: busy)
        return SimpleNamespace(runner=runner)

    return {name: model(*values) for name, values in pending.items()}


def samples(metrics: Metrics) -> Callable[..., float | None]:
    """A function that looks up one value of a scrape."""
    body, _ = metrics.exposition()
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    return lambda name, **labels: values.get((name, tuple(sorted(labels.items()))))


def one(name: str = "m") -> Metrics:
    metrics = Metrics(CollectorRegistry())
    metrics.watch(watched(**{name: (0, 0, 0)}))
    return metrics


def test_an_answered_request_is_counted_with_its_times_and_tokens() -> None:
    metrics = one()
    asked = call(tokenization_seconds=0.001, queue_seconds=0.02, inference_seconds=0.3, input_tokens=17)
    asked.started -= 4
    metrics.finished(asked, 200)
    value, of = samples(metrics), {"model": "m", "endpoint": "/embed"}
    assert value("poprt_requests_total", endpoint="/embed", code="200") == 1
    assert value("poprt_request_duration_seconds_sum", **of) == pytest.approx(4, abs=0.5)
    assert value("poprt_request_tokenization_duration_seconds_sum", **of) == 0.001
    assert value("poprt_request_queue_duration_seconds_sum", **of) == 0.02
    assert value("poprt_request_inference_duration_seconds_sum", **of) == 0.3
    assert value("poprt_request_input_tokens_sum", **of) == 17
    assert value("poprt_request_input_tokens_bucket", le="16.0", **of) == 0
    assert value("poprt_request_input_tokens_bucket", le="32.0", **of) == 1


@pytest.mark.parametrize("status", [400, 404, 429, 499, 500, 504])
def test_a_request_without_an_answer_counts_by_its_status_alone(status: int) -> None:
    metrics = one()
    metrics.finished(call(), status)
    value = samples(metrics)
    assert value("poprt_requests_total", endpoint="/embed", code=str(status)) == 1
    assert value("poprt_request_duration_seconds_count", model="m", endpoint="/embed") is None


@pytest.mark.parametrize("model", ["", "a stranger's name"])
def test_a_name_that_no_model_has_is_no_label(model: str) -> None:
    metrics = one()
    metrics.finished(call(model), 200)
    metrics.cancelled(model, 1)
    body, _ = metrics.exposition()
    assert b"stranger" not in body
    assert b'model=""' not in body
    assert samples(metrics)("poprt_requests_total", endpoint="/embed", code="200") == 1


def test_however_many_paths_are_asked_for_there_are_few_endpoints() -> None:
    metrics = one()
    for number in range(2 * MOST_ENDPOINTS):
        metrics.finished(call(endpoint=f"/{number}"), 200)
    metrics.finished(call(endpoint=""), 404)
    body, _ = metrics.exposition()
    endpoints = set(re.findall(r'poprt_requests_total\{.*?endpoint="(.*?)"', body.decode()))
    assert len(endpoints) == MOST_ENDPOINTS + 1
    assert samples(metrics)("poprt_requests_total", endpoint=OTHER, code="200") == MOST_ENDPOINTS


def test_a_request_counts_in_the_bucket_of_its_own_bound() -> None:
    metrics, bound = one(), SECONDS[7]
    metrics.finished(call(queue_seconds=bound), 200)
    metrics.finished(call(queue_seconds=1e9), 200)
    metrics.finished(call(queue_seconds=float("nan")), 200)
    value, of = samples(metrics), {"model": "m", "endpoint": "/embed"}
    bucket = "poprt_request_queue_duration_seconds_bucket"
    assert [value(bucket, le=str(SECONDS[step]), **of) for step in (6, 7, -1)] == [0, 1, 1]
    assert value(bucket, le="+Inf", **of) == 2


def test_buckets_are_steps_of_one_and_a_half_to_a_minute_and_powers_of_two() -> None:
    assert SECONDS[0] == 1e-5
    assert 60 < SECONDS[-1] < 90
    assert all(1.49 < next_ / bound < 1.51 for bound, next_ in pairwise(SECONDS))
    assert list(COUNTS) == [2**power for power in range(17)]


def test_a_pack_is_counted_with_what_padding_would_have_added() -> None:
    metrics = one()
    observe = metrics.pack_observer("m")
    observe(observation(3, 10, 5))
    observe(observation(8))
    observe(observation(9, 9, error=ValueError()))
    value = samples(metrics)
    assert value("poprt_padding_saved_tokens_total", model="m") == 3 * 10 - 18
    assert value("poprt_pack_samples_sum", model="m") == 4
    assert value("poprt_pack_samples_count", model="m") == 2
    assert value("poprt_pack_tokens_sum", model="m") == 26


def test_gauges_are_read_when_they_are_asked_for() -> None:
    metrics, levels = Metrics(CollectorRegistry()), [1, 20]
    runner = SimpleNamespace(pending=lambda: Pending(levels[0], levels[1]), running=lambda: 2)
    metrics.watch({"m": SimpleNamespace(runner=runner)})  # type: ignore[dict-item]
    levels[:] = [7, 300]
    value = samples(metrics)
    assert value("poprt_queue_requests", model="m") == 7
    assert value("poprt_queue_tokens", model="m") == 300
    assert value("poprt_lanes_busy", model="m") == 2


def test_texts_that_are_taken_back_are_counted_and_zero_is_said_before() -> None:
    metrics = one()
    assert samples(metrics)("poprt_cancelled_total", model="m") == 0
    metrics.cancelled("m", 3)
    assert samples(metrics)("poprt_cancelled_total", model="m") == 3


def test_the_names_are_these() -> None:
    metrics = one()
    metrics.finished(call(), 200)
    metrics.pack_observer("m")
    body, _ = metrics.exposition()
    families = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {name for name in families if not name.endswith("_created")} == NAMES
    assert re.search(rb'poprt_build_info\{onnxruntime="[\d.]+",version="[\d.]+"\} 1.0', body)


def test_openmetrics_is_written_where_it_is_asked_for() -> None:
    metrics = one()
    body, kind = metrics.exposition("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    body, kind = metrics.exposition()
    assert kind.startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in body


_WORKER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.serve.test_metrics import call, observation, watched
from poprt.serve.metrics import Metrics
metrics = Metrics()
metrics.watch(watched(m=({requests}, 10 * {requests}, 1)))
metrics.finished(call(input_tokens=5), 200)
metrics.pack_observer("m")(observation(4, 6))
print("ready", flush=True)
sys.stdin.readline()
sys.stdout.write(metrics.exposition()[0].decode())
"""


@pytest.mark.parametrize("version", ["zz", "1.x", ""])
def test_a_version_of_openmetrics_that_is_none_gets_a_format_that_is_known(version: str) -> None:
    _, content_type = Metrics().exposition(f"application/openmetrics-text; version={version}")
    formats = (
        "text/plain",
        "application/openmetrics-text; version=0.0.1",
        "application/openmetrics-text; version=1.0.0",
    )
    assert content_type.startswith(formats)  # by the release of prometheus_client


def test_several_processes_count_together(tmp_path: Path) -> None:
    environment = {**os.environ, METRICS_DIR: str(tmp_path), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER.format(root=str(ROOT), requests=requests)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for requests in (3, 4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        body, _ = processes[0].communicate("\n", timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert 'poprt_requests_total{code="200",endpoint="/embed"} 2.0' in body
    assert 'poprt_pack_tokens_sum{model="m"} 20.0' in body
    assert 'poprt_queue_requests{model="m"} 7.0' in body
    assert 'poprt_queue_tokens{model="m"} 70.0' in body
    assert 'poprt_lanes_busy{model="m"} 2.0' in body
    assert re.search(r"poprt_build_info\{.*\} 1.0", body)


def test_gauges_of_several_processes_follow_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from poprt.serve import gauges

    monkeypatch.setattr(gauges, "EVERY", 0.01)
    registry, waiting = CollectorRegistry(), [1]
    runner = SimpleNamespace(pending=lambda: Pending(waiting[0], 0), running=lambda: 0)
    shared = gauges.SharedGauges({"m": SimpleNamespace(runner=runner)}, registry)  # type: ignore[dict-item]
    try:
        assert registry.get_sample_value("poprt_queue_requests", {"model": "m"}) == 1
        waiting[0] = 5
        deadline = time.monotonic() + 20
        while registry.get_sample_value("poprt_queue_requests", {"model": "m"}) != 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        shared.close()


def test_what_a_server_did_is_in_its_metrics() -> None:
    with served({"tiny": text_model("embed")}) as url, httpx.Client(base_url=url) as client:
        assert client.post("/embed", json={"inputs": ["one text", "and another"]}).status_code == 200
        assert client.post("/embed", json={"inputs": []}).status_code >= 400
        assert client.get("/no/such/path").status_code == 404
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert 'poprt_requests_total{code="200",endpoint="/embed"} 1.0' in text
    assert 'poprt_pack_samples_sum{model="tiny"} 2.0' in text
    assert 'poprt_request_duration_seconds_count{endpoint="/embed",model="tiny"} 1.0' in text
    assert "/no/such/path" not in text
    tokens = re.search(r'poprt_request_input_tokens_sum\{endpoint="/embed",model="tiny"\} ([\d.]+)', text)
    assert tokens
    assert float(tokens[1]) > 4
    assert "process_resident_memory_bytes" in text


def test_the_last_packs_and_requests_are_kept_and_no_more() -> None:
    recent = Recent()
    for length in range(1, 2 * PACKS + 1):
        recent.ran(observation(length, 1))
    recent.ran(observation(4, error=ValueError()))
    packs = recent.packs()
    assert [number for number, _ in packs] == list(range(PACKS + 2, 2 * PACKS + 2))
    totals = recent.totals()
    assert (totals.packs, totals.failed_packs, totals.texts) == (2 * PACKS, 1, 4 * PACKS)
    assert totals.padded_tokens - totals.tokens == sum(length - 1 for length in range(1, 2 * PACKS + 1))
    for number in range(2 * REQUESTS):
        recent.answered(100.0, float(number))
    assert len(recent.durations(100.0)) == REQUESTS
    assert recent.durations(100.0 + WINDOW) == []
    assert recent.totals().requests == 2 * REQUESTS


def test_the_dashboard_asks_for_what_there_is_and_leaves_nothing_out() -> None:
    board = json.loads((ROOT / "examples" / "grafana" / "poprt.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    names = {name for expression in expressions for name in re.findall(r"poprt_\w+", expression)}
    metrics = one()
    metrics.finished(call(), 200)
    metrics.pack_observer("m")
    body, _ = metrics.exposition()
    values = {s.name for family in text_string_to_metric_families(body.decode()) for s in family.samples}
    assert names <= values
    assert {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in names} == NAMES
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(places)
