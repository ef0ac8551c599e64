"""The other commands, on tiny models and for a moment."""

from __future__ import annotations

import argparse
import json
import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import commands
from benchmarks.arrivals import poisson_arrivals
from benchmarks.commands import main
from benchmarks.contenders import OnnxRuntime, Result, Sample
from benchmarks.cost import measure_cost
from benchmarks.load import offer
from benchmarks.output import Output
from benchmarks.pairs import Paired, Quartiles
from benchmarks.plain_queue import PlainQueue
from benchmarks.profiling import op_times, profile
from benchmarks.report import variants_table
from benchmarks.serve import commands as serve_commands
from benchmarks.variants import VariantRate
from benchmarks.workloads import DISTRIBUTIONS, Requests, build, compile_padded
from poprt.errors import PoprtError
from tests.numerics import one_by_one, random_samples

SOON = 60


def ignore(line: str) -> None:
    del line


def run(command: str, folder: Path) -> dict[str, object]:
    name, *options = command.split()
    main([name, *options, "--output_dir", str(folder)])
    report: dict[str, object] = json.loads((folder / f"{name}.json").read_text())
    assert report["machine"]
    return report


def test_the_plain_queue_gives_every_request_its_own_result() -> None:
    model = build("tiny")
    samples = random_samples([5, 40, 1, 17, 9, 30, 2])
    queue = PlainQueue(OnnxRuntime(model.SerializeToString(), threads=1), 3, 64)
    futures = [queue.submit(sample) for sample in samples]
    for future, expected in zip(futures, one_by_one(model, samples), strict=True):
        for name, values in expected.items():
            np.testing.assert_allclose(future.result(SOON)[name], values, atol=1e-5)
    queue.close()


class HeldEngine:
    """Gives each row its first id; waits until it is let go."""

    token_outputs: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def __call__(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.entered.set()
        self.go.wait(SOON)
        assert feeds["x"].shape == (4, 8)
        self.batches.append(int((feeds["x"][:, 0] > 0).sum()))
        if feeds["x"].max() > 100:
            raise ValueError("an id outside the vocabulary")
        return {"first": feeds["x"][:, 0]}


def test_the_plain_queue_takes_at_most_a_batch_of_those_that_wait_and_answers_them_before_it_closes() -> None:
    engine = HeldEngine()
    queue = PlainQueue(engine, 4, 8)
    futures = [queue.submit({"x": np.array([1])})]
    engine.entered.wait(SOON)
    futures += [queue.submit({"x": np.array([number])}) for number in range(2, 8)]
    engine.go.set()
    queue.close()
    assert [int(future.result(0)["first"]) for future in futures] == list(range(1, 8))
    assert engine.batches == [1, 4, 2]


def test_a_failed_batch_fails_its_requests_and_the_plain_queue_goes_on() -> None:
    engine = HeldEngine()
    engine.go.set()
    queue = PlainQueue(engine, 4, 8)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        queue.submit({"x": np.array([101])}).result(SOON)
    assert queue.submit({"x": np.array([5])}).result(SOON)["first"] == 5
    queue.close()


def test_poisson_arrivals_come_at_the_rate_asked_for_and_irregularly() -> None:
    arrivals = poisson_arrivals(50.0, 200, seed=1)
    gaps = np.diff([0.0, *arrivals])
    assert arrivals[-1] == pytest.approx(4.0)
    assert (gaps > 0).all()
    assert 0.8 < gaps.std() / gaps.mean() < 1.2  # an exponential's deviation is its mean


def test_latency_counts_from_the_moment_a_request_was_due() -> None:
    class Late:
        def submit(self, sample: Sample) -> Future[Result]:
            future: Future[Result] = Future()
            future.set_result({})
            return future

        def close(self) -> None:
            pass

    latencies, taken = offer(Late(), [{"x": np.ones(1)}] * 3, [-5.0, -3.0, 0.0])
    assert latencies[0] - latencies[1] == pytest.approx(2, abs=1)
    assert latencies[0] >= 5
    assert taken >= 0


def test_a_failed_request_fails_the_load_run() -> None:
    class Failing:
        def submit(self, sample: Sample) -> Future[Result]:
            future: Future[Result] = Future()
            future.set_exception(ValueError("no"))
            return future

        def close(self) -> None:
            pass

    with pytest.raises(ValueError, match="no"):
        offer(Failing(), [{"x": np.ones(1)}], [0.0])


def test_load_writes_a_point_for_each_server_and_load(tmp_path: Path) -> None:
    report = run("load --size tiny --lengths short --seconds 0.02 --rounds 1", tmp_path)
    points = report["results"]["points"]  # type: ignore[index]
    assert [point["fraction"] for point in points] == [f for f in (0.3, 0.5, 0.7, 0.9) for _ in range(2)]
    assert {point["server"] for point in points} == {"poprt: pack runner", "plain batching queue"}
    assert all(0 < point["p50"] <= point["p99"] <= point["p999"] for point in points)
    assert all(0 <= point["stalls"]["p99"] <= point["stalls"]["worst"] for point in points)


def test_cost_has_every_contender_at_every_point() -> None:
    costs = measure_cost("tiny", 0.0, 1, ignore, lengths=(4, 32), hidden=(64, 128), layers=1, length=16)
    assert [cost.at for cost in costs.by_length] == [4] * 3 + [32] * 3
    assert [cost.at for cost in costs.by_hidden] == [64] * 3 + [128] * 3
    assert all(cost.microseconds > 0 for cost in costs.by_length + costs.by_hidden)


def test_one_length_runs_the_same_requests_in_fewer_packs_to_the_same_numbers(tmp_path: Path) -> None:
    results = run("one_length --size tiny --waiting 40 --pairs 1", tmp_path)["results"]
    rates = {rate["name"]: rate for rate in results["rates"]}  # type: ignore[index]
    alone, equal, similar = list(rates.values())[2:]
    assert alone["packs"] == results["waiting"] == 40  # type: ignore[index]
    assert results["distinct"] <= equal["packs"] < alone["packs"]  # type: ignore[index]
    assert similar["packs"] < equal["packs"]
    assert all(rate["difference"] < 1e-4 and rate["requests_per_second"]["low"] > 0 for rate in rates.values())


def test_profile_compares_the_padded_and_the_packed_model_by_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run("profile --size tiny --lengths short --requests 20", tmp_path)
    padded, packed = report["results"]  # type: ignore[misc]
    assert (padded["name"], packed["name"]) == ("padded", "packed")
    for each in (padded, packed):
        assert sum(op["share"] for op in each["ops"]) == pytest.approx(1)
        assert any("MatMul" in op["op"] for op in each["ops"])
    assert "Softmax" in capsys.readouterr().out


def test_profile_reads_executables_from_files(tmp_path: Path) -> None:
    path = tmp_path / "model.popef"
    compile_padded(build("tiny"), 64).save(path)
    report = run(f"profile {path} --lengths short --requests 4", tmp_path)
    assert [each["name"] for each in report["results"]] == [str(path)]  # type: ignore[attr-defined]


def test_profile_names_an_input_that_requests_do_not_have() -> None:
    executable = compile_padded(build("tiny"), 64)
    samples = [{"input_ids": np.ones(3, np.int64)}]
    with pytest.raises(PoprtError, match="attention_mask"):
        profile("x", executable, samples)


def test_the_warm_up_run_is_not_counted() -> None:
    def event(op: str, micros: int) -> dict[str, object]:
        return {"cat": "Node", "name": "n_kernel_time", "dur": micros, "args": {"op_name": op}}

    runs = [[event("MatMul", 9000), event("Add", 9000)], *([[event("MatMul", 3000), event("Add", 1000)]] * 2)]
    session = {"cat": "Session", "name": "model_run", "dur": 99}
    times = op_times([session, *(item for each in runs for item in each)], 2)
    assert [(t.op, t.milliseconds, t.calls, t.share) for t in times] == [("MatMul", 3, 1, 0.75), ("Add", 1, 1, 0.25)]


def test_startup_loads_every_file_in_fresh_processes(tmp_path: Path) -> None:
    results = run("startup --size tiny --runs 1", tmp_path)["results"]
    plain, single, half = results  # type: ignore[misc]
    assert half["file_bytes"] < single["file_bytes"]
    for each in (plain, single, half):
        assert each["load_seconds"] > 0
        assert 10 * 2**20 < each["resident_bytes"] <= each["peak_bytes"]


def test_the_requests_of_the_command_line_are_those_of_the_distribution() -> None:
    samples = Requests(DISTRIBUTIONS["short"], 100).take(0, 50)
    assert max(int(sample["input_ids"].max()) for sample in samples) < 100
    assert max(len(sample["input_ids"]) for sample in samples) <= 64


def test_all_runs_the_measuring_commands_with_options_that_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def watch(name: str) -> None:
        add, _, text = commands._COMMANDS[name]

        def note(options: argparse.Namespace, _: Output) -> None:
            assert options.output_dir == tmp_path
            asked.append(name)

        monkeypatch.setitem(commands._COMMANDS, name, (add, note, text))

    measuring = set(commands._COMMANDS) - {"all"} - set(serve_commands.COMMANDS)
    for name in measuring:
        watch(name)
    main(["all", "--minutes", "12", "--output_dir", str(tmp_path)])
    assert sorted(asked) == sorted(measuring)


def test_the_table_of_variants_gives_packed_over_padded_or_why_there_is_none() -> None:
    paired = Paired(Quartiles(240, 250, 260), Quartiles(90, 100, 110), Quartiles(2.4, 2.5, 2.6), 7, 0.1)
    rates = [
        VariantRate("float32", (90, 91), "padded to the longest of 8", paired),
        VariantRate("odd", absent="no"),
    ]
    console = Console(width=200, record=True)
    console.print(variants_table(rates))
    text = console.export_text()
    assert "2.50 [2.40 - 2.60]" in text
    assert "padded to the longest of 8" in text
    assert [line for line in text.splitlines() if "odd" in line and "no" in line]
