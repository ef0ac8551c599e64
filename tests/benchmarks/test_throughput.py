"""The throughput command, on a tiny model and slices that are too short to mean anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import peer_ctranslate2, peer_openvino, rounds
from benchmarks.commands import main
from benchmarks.contenders import OnnxRuntime, Padded, Result, Sample
from benchmarks.field import Case, FieldBuilder
from benchmarks.roof import Roof
from benchmarks.rounds import Slice, Timing, interleave
from benchmarks.throughput import Budget, measure_case, slice_counts
from benchmarks.workloads import DISTRIBUTIONS, Requests, build, config_of
from poprt.engine.cpu import usable_cores

QUICK = Budget(seconds=0.01, rounds=2, least=16)
SHORT = DISTRIBUTIONS["short"]

#: One more where there are cores to share.
BASELINES = 4 + (usable_cores() > 1)


def ignore(line: str) -> None:
    del line


def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("No module named 'peer'", name="peer")

    monkeypatch.setattr(peer_ctranslate2, "CTranslate2", missing)
    monkeypatch.setattr(peer_openvino, "OpenVINO", missing)


def test_the_command_prints_a_table_and_writes_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="not installed: pip install '.[bench]'")
    monkeypatch.setenv("COLUMNS", "200")
    options = [
        "--sizes",
        "tiny",
        "--lengths",
        "short",
        "--precision",
        "fp32",
        "--seconds",
        "0.01",
        "--rounds",
        "1",
        "--least",
        "16",
    ]
    main([*options, "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    body = json.loads((tmp_path / "throughput.json").read_text())
    rows = body["results"][0]["rows"]
    kinds = [row["kind"] for row in rows]  # the peers, too, where they are installed
    assert kinds.count("baseline") == BASELINES
    assert {"poprt: pack runner, order of arrival", "poprt: packs laid offline, sorted"} <= {
        row["name"] for row in rows
    }
    assert all(row["name"] in printed for row in rows)
    assert max(row["ratio"] for row in rows if row["kind"] == "baseline") == 1
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")


def test_absent_peers_are_named_with_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    without_peers(monkeypatch)
    result = measure_case(Case("tiny", SHORT, "fp32"), replace(QUICK, rounds=1), ignore)
    assert "pip install ctranslate2" in result.absent["CTranslate2"]
    assert "pip install openvino" in result.absent["OpenVINO"]
    assert len(result.rows) == BASELINES + 2


def test_a_contender_with_wrong_numbers_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    without_peers(monkeypatch)
    right = Padded.run

    def wrong(self: Padded, samples: list[Sample]) -> list[Result]:
        results = right(self, samples)
        return [{k: v + 1 for k, v in result.items()} for result in results] if self.sort else results

    monkeypatch.setattr(Padded, "run", wrong)
    builder = FieldBuilder(Case("tiny", SHORT, "fp32"), Requests(SHORT, 1000), ignore)
    field = builder.build()
    assert len(field.entries) == BASELINES + 1
    assert [name.split(",")[0] for name, why in field.absent.items() if "wrong numbers" in why] == [
        "onnxruntime: sorted by length"
    ]


def test_every_contender_runs_the_same_requests_once_a_round() -> None:
    engine = OnnxRuntime(build("tiny").SerializeToString(), threads=1)
    ways = [Padded("a", engine, 1), Padded("b", engine, 4)]
    between: list[str] = []
    timings = interleave(
        ways, Requests(SHORT, 1000), {"a": 16, "b": 32}, 3, ignore, between=lambda: between.append("roof")
    )
    assert len(between) == 3
    for small, large in zip(timings["a"].slices, timings["b"].slices, strict=True):
        assert large.lengths[:16] == small.lengths
    assert timings["a"].slices[0].lengths != timings["a"].slices[1].lengths
    assert timings["a"].padding == 0 < timings["b"].padding


def test_no_round_begins_that_would_end_after_the_deadline() -> None:
    lines: list[str] = []
    way = Padded("a", OnnxRuntime(build("tiny").SerializeToString(), threads=1), 1)
    timings = interleave([way], Requests(SHORT, 1000), {"a": 16}, 3, lines.append, deadline=0.0)
    assert len(timings["a"].slices) == 1
    assert "stopped after 1 of 3 rounds" in lines[-1]


def test_rounds_are_left_out_before_slices_shrink_and_they_never_shrink_below_a_batch() -> None:
    budget = Budget(seconds=4, rounds=3, least=32)
    speeds = {"slow": 1.0, "quick": 100.0}
    assert slice_counts(speeds, budget, 1e6) == {"slow": 32, "quick": 400}
    assert slice_counts(speeds, budget, 18.0) == {"slow": 16, "quick": 400}
    assert slice_counts(speeds, budget, 6.0) == {"slow": 16, "quick": 288}
    assert slice_counts(speeds, budget, -5.0) == {"slow": 16, "quick": 16}


def test_a_timing_gives_medians_over_its_slices() -> None:
    slices = [Slice((10, 10), 40, seconds, seconds / 2) for seconds in (1.0, 4.0, 2.0)]
    timing = Timing(slices)
    assert timing.tokens_per_second == 10
    assert timing.spread == (20 - 5) / 10
    assert timing.padding == 0.5
    assert timing.overhead == 0.5
    assert Timing([Slice((1,), 1, 1.0, None)]).overhead is None


def test_the_fastest_form_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"slow": 3.0, "quick": 1.0, "slower": 4.0}
    monkeypatch.setattr(rounds, "time_slice", lambda way, *_: Slice((1,), 1, seconds[way.name], None))
    engine = OnnxRuntime(build("tiny").SerializeToString(), threads=1)
    forms = [Padded(name, engine, 1) for name in seconds]
    assert rounds.fastest(forms, Requests(SHORT, 1000), 4, 1, 1.0, ignore).name == "quick"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_roof_counts_the_products_of_a_whole_encoder(precision: str) -> None:
    roof = Roof(config_of("tiny"), precision, tokens=8)
    assert roof.flops == 2 * 8 * 2 * (4 * 64 * 64 + 2 * 64 * 128)
    rates = roof.measure(0)
    assert set(rates) - {"openvino"} == ({"onnxruntime", "numpy"} if precision == "fp32" else {"onnxruntime"})
    assert all(rate > 0 for rate in rates.values())
