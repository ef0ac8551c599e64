"""Texts on a local Ray: datasets, the job of `poprt embed`, and replicas of the server."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
from ray import serve

import poprt.ray
from poprt.bulk import job as jobs
from poprt.bulk.work import Job
from poprt.errors import PoprtError
from poprt.ray import serving
from poprt.ray.job import on_ray
from tests.poprt.bulk.jobs import Watch, assert_embeds, matrix, model, parquet_file, random_texts, run, vectors
from tests.serve.servers import until

pytestmark = pytest.mark.xdist_group("ray")

TEXTS = [f"{number} {text}" for number, text in enumerate(random_texts(3000))]


def kill_worker(title: str) -> int:
    """Kill a process of Ray with SIGKILL once there is one; its id."""
    workers: list[psutil.Process] = []

    def there() -> bool:
        workers[:] = [process for process in psutil.process_iter() if title in " ".join(_command(process))]
        return bool(workers)

    until(there, 30)
    os.kill(workers[0].pid, signal.SIGKILL)
    return workers[0].pid


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.usefixtures("local_ray")
def test_a_dataset_is_embedded_though_an_actor_is_killed(tmp_path: Path) -> None:
    parquet_file(tmp_path / "in.parquet", [*TEXTS, None], rows=100)
    dataset = ray.data.read_parquet(str(tmp_path / "in.parquet"), override_num_blocks=30)
    embedded = poprt.ray.embed(dataset, model(), actors=2, batch_size=32)
    killer = threading.Thread(target=kill_worker, args=["ray::MapWorker(MapBatches(TextEncoder)).submit"])
    killer.start()
    embedded.write_parquet(str(tmp_path / "out"))
    killer.join()
    table = pq.read_table(tmp_path / "out").sort_by("id")
    assert table["id"].to_pylist() == list(range(len(TEXTS) + 1))
    assert "expected a string" in table["error"].to_pylist()[-1]
    assert_embeds(table.slice(0, len(TEXTS)), TEXTS)


@pytest.mark.usefixtures("local_ray")
def test_an_actor_keeps_to_its_cores_and_takes_jsonl(tmp_path: Path) -> None:
    ray.data.from_arrow(pa.table({"text": TEXTS[:50]})).write_json(str(tmp_path / "in"))
    dataset = ray.data.read_json(str(tmp_path / "in"))
    table = pa.concat_tables(ray.get(poprt.ray.embed(dataset, model(), num_cpus=2, actors=1).to_arrow_refs()))
    assert abs(matrix(table["embedding"]) - vectors(table["text"].to_pylist())).max() < 2e-5

    def lanes(executable: str) -> tuple[int, int]:
        from poprt.ray.actor import open_model

        with open_model(executable, None) as own:
            return own.runner.lanes, own.runner._worker.budget

    assert ray.get(ray.remote(num_cpus=2)(lanes).remote(str(model()))) == (2, 512)


@pytest.mark.usefixtures("local_ray")
def test_a_large_block_is_of_several_tasks() -> None:
    dataset = ray.data.from_arrow(pa.table({"text": TEXTS[:600]}))
    blocks = ray.get(poprt.ray.embed(dataset, model(), actors=1, block_rows=200).to_arrow_refs())
    assert sorted(len(block) for block in blocks) == [200, 200, 200]


@pytest.mark.usefixtures("local_ray")
def test_the_job_of_the_command_goes_on_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet_file(tmp_path / "in.parquet", [*TEXTS, *TEXTS])
    job = Job(source, tmp_path / "out.parquet", model())
    with pytest.raises(KeyboardInterrupt):
        run(job, stop_after=1)
    watch = Watch()
    assert jobs.run(job, on_ray(None, 2, 1, None), watch)
    pieces, done = watch.events[0]
    assert (pieces, watch.events.count("piece")) == (6, 6 - done)
    assert done >= 1
    assert_embeds(pq.read_table(job.output), [*TEXTS, *TEXTS])
    assert ray.is_initialized()  # it was there before


@pytest.mark.usefixtures("local_ray")
def test_what_cannot_work_is_said_before_anything_runs(caplog: pytest.LogCaptureFixture) -> None:
    dataset = ray.data.from_arrow(pa.table({"text": ["a"], "error": ["b"]}))
    for options, complaint in (
        ({}, "error_column: there is a column 'error' already"),
        ({"column": "body", "error_column": "why"}, "there is no column 'body'"),
        ({"task": "reranking"}, "expected a model for reranking"),
    ):
        with pytest.raises(PoprtError, match=complaint):
            poprt.ray.embed(dataset, model(), **options)
    assert not caplog.records
    poprt.ray.embed(dataset, model(), error_column="why", actors=3)
    assert "the actors take 3 of the 3 CPUs" in caplog.text


@pytest.fixture
def served(local_ray: None) -> Iterator[str]:
    """Two replicas of a tiny model; the address of their proxy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(poprt.ray.deployment({"tiny": model()}, replicas=2, logging_config={"log_level": "WARNING"}))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


def test_replicas_answer_openais_client_though_one_is_killed(served: str) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed: pip install '.[demo]'")
    client = openai.OpenAI(base_url=f"{served}/v1", api_key="none")
    answers: list[list[float]] = []
    errors: list[Exception] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                answers.append(client.embeddings.create(model="tiny", input=TEXTS[0]).data[0].embedding)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 20, 30)
    dead = kill_worker("ray::ServeReplica:default:poprt")
    count = len(answers)
    until(lambda: len(answers) > count + 100, 30)
    ended.set()
    for thread in threads:
        thread.join()
    assert errors == []  # the client asks again for what the dead replica had
    for answer in answers:
        assert answer == pytest.approx(vectors(TEXTS)[0].tolist(), abs=2e-5)
    assert not psutil.pid_exists(dead) or psutil.Process(dead).status() == psutil.STATUS_ZOMBIE


def test_a_replica_whose_lane_died_is_not_healthy() -> None:
    replica = serving.Replica()
    replica.app = serving.create_app({"tiny": str(model())})
    replica.check_health()
    for served_model in replica.app.state.poprt.models.values():
        served_model.close(cancel=True)
    with pytest.raises(PoprtError, match="model 'tiny': a lane of the runner died"):
        replica.check_health()


def test_the_metrics_are_told_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from poprt.ray import metrics

    told: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    class Gauge:
        def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
            self.name, self.labels = name, labels

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == self.labels
            told[self.name, tuple(sorted(tags.items()))] = value

    monkeypatch.setattr(metrics, "Gauge", Gauge)
    exported = metrics.ExportedMetrics()
    exported.watch({})
    exported.pack_observer("tiny")
    exported.cancelled("tiny", 3)
    exported.tell()
    assert told["poprt_cancelled_total", (("model", "tiny"),)] == 3.0
    exported.close()


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [(3, (3, None)), ((1, 5), (None, (1, 5, serving.TARGET_ONGOING)))],
)
def test_replicas_are_a_number_or_scale_with_what_waits(replicas: Any, expected: Any) -> None:
    application = poprt.ray.deployment({"tiny": model()}, replicas=replicas, num_cpus=2)
    deployed = application._bound_deployment
    assert deployed.max_ongoing_requests == serving.MOST_ONGOING
    assert deployed.ray_actor_options["num_cpus"] == 2
    scaling = deployed._deployment_config.autoscaling_config
    sizes = scaling and (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests)
    assert (None if scaling else deployed.num_replicas, sizes) == expected


def test_no_model_is_refused() -> None:
    with pytest.raises(PoprtError, match="models: expected at least one"):
        poprt.ray.deployment({})
