"""Several processes behind one port: replaced, counted, ended together."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from poprt.errors import PoprtError
from poprt.serve import workers
from poprt.serve.options import ServeOptions
from poprt.serve.workers import MOST_FAILURES, SHORT_LIFE, Share, Supervisor, Worker, metrics_folder, shares
from tests.serve.commands import Command, packed, serving
from tests.serve.servers import until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory)


def process_ids(server: Command) -> list[int]:
    return [int(number) for number in re.findall(r"worker (\d+) is ready", server.stderr)]


def restarts(folder: Path) -> float:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return registry.get_sample_value("poprt_worker_restarts_total") or 0.0


def test_a_dead_worker_is_replaced_and_counted_and_all_end_together(model: Path, tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    counts.mkdir()
    words = (f"tiny={model}", "--port", 0, "--workers", 2)
    with serving(tmp_path, *words, PROMETHEUS_MULTIPROC_DIR=str(counts)) as server:
        assert server.ask("/embed", {"inputs": "a"}).status == 200
        assert server.stderr.count("tiny: embedding") == 1
        assert "by 2 processes" in server.stderr
        first = process_ids(server)
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(process_ids(server)) == 3, 60)
        assert f"worker {first[0]} ended with SIGKILL and is replaced" in server.stderr
        assert restarts(counts) == 1
        for _ in range(8):
            assert server.ask("/embed", {"inputs": "a"}).status == 200
        server.process.send_signal(signal.SIGHUP)
        assert server.end() == 0
        assert "Traceback" not in server.stderr
        until(lambda: not any(is_alive(number) for number in process_ids(server)))


def is_alive(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_workers_end_with_a_supervisor_that_was_killed(model: Path, tmp_path: Path) -> None:
    with serving(tmp_path, model, "--port", 0, "--workers", 2, TMPDIR=str(tmp_path)) as server:
        port = server.port
        server.process.kill()
        until(lambda: not any(is_alive(number) for number in process_ids(server)))
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_model_that_cannot_be_loaded_ends_all_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.popef"
    path.write_bytes(b"no executable")
    with serving(tmp_path, f"m={path}", "--port", 0, "--workers", 2) as server:
        assert server.process.wait(60) == 1
        (line,) = server.stderr.splitlines()
        assert line.startswith("poprt: error: ")
        assert str(path) in line


@pytest.mark.parametrize(("seen", "count", "sizes"), [(8, 2, [4, 4]), (10, 4, [2, 3, 2, 3]), (2, 4, [1, 1, 1, 1])])
def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, seen: int, count: int, sizes: list[int]) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: seen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(100, 100 + seen)), raising=False)
    parts = shares(count)
    assert [part.threads for part in parts] == sizes
    assert [len(part.cores) for part in parts] == sizes
    assert frozenset().union(*(part.cores for part in parts)) == set(range(100, 100 + seen))


def test_a_share_of_a_limited_time_binds_to_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert shares(4) == [Share(frozenset(), 2)] * 4


def test_a_worker_that_fails_again_and_again_waits_longer_each_time() -> None:
    worker = Worker(Share(frozenset(), 1))
    pauses = []
    for _ in range(4):
        worker.ended(100.0)
        pauses.append(worker.start_at - 100.0)
    assert pauses == [0, 0.5, 1, 2]
    worker.ready_at = 100.0
    worker.ended(100.0 + SHORT_LIFE)
    assert (worker.failures, worker.start_at) == (1, 100.0 + SHORT_LIFE)


class DeadProcess:
    pid, exitcode = 12345, -9

    def join(self) -> None: ...


def test_the_last_failure_of_a_worker_ends_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(workers, "_restart_counter", lambda: SimpleNamespace(inc=lambda: counted.append(1)))
    monkeypatch.setattr(workers, "_forget_gauges", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        supervisor = Supervisor({}, ServeOptions(workers=1), [bound])
    worker: Any = supervisor._workers[0]

    def wait(wake: socket.socket) -> None:
        worker.process = DeadProcess()
        supervisor._replace(worker)
        worker.process = None

    monkeypatch.setattr(supervisor, "_start_due", lambda: None)
    monkeypatch.setattr(supervisor, "_wait", wait)
    with pytest.raises(PoprtError, match=f"ended {MOST_FAILURES} times in a row, the last time with SIGKILL"):
        supervisor.run()
    assert len(counted) == MOST_FAILURES - 1


def test_what_workers_count_is_removed_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(workers.METRICS_DIR, raising=False)
    with metrics_folder():
        folder = Path(os.environ[workers.METRICS_DIR])
        (folder / "counter_1.db").write_bytes(b"")
    assert not folder.exists()
    assert workers.METRICS_DIR not in os.environ
    monkeypatch.setenv(workers.METRICS_DIR, str(tmp_path))
    with metrics_folder():
        assert os.environ[workers.METRICS_DIR] == str(tmp_path)
    assert tmp_path.exists()
