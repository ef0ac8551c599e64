"""The throughput command, on a tiny model and slices that are too short to mean anything."""

from __future__ import annotations

import io
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import peak, peer_ctranslate2, peer_openvino, rounds
from benchmarks.commands import main
from benchmarks.contenders import OnnxRuntime, Padded, Result, Sample
from benchmarks.field import Case, Field
from benchmarks.peak import Peak
from benchmarks.report import case_table
from benchmarks.rounds import Slice, Sliced, Timing
from benchmarks.throughput import Budget, CaseResult, measure_case
from benchmarks.workloads import DISTRIBUTIONS, Requests, build
from poprt.engine.cpu import usable_cores

QUICK = Budget(seconds=0.01, pairs=1)
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
    for module in ("benchmarks.field", "poprt.engine.choice"):
        monkeypatch.setattr(f"{module}.is_installed", lambda engine: engine == "onnxruntime")


def test_the_command_prints_a_table_and_writes_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="not installed: pip install '.[bench]'")
    monkeypatch.setenv("COLUMNS", "300")  # a busy machine has wide figures
    options = [
        "--sizes",
        "tiny",
        "--lengths",
        "short",
        "--precision",
        "fp32",
        "--seconds",
        "0.01",
        "--pairs",
        "1",
    ]
    main([*options, "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    body = json.loads((tmp_path / "throughput.json").read_text())
    rows = body["results"][0]["rows"]
    kinds = [row["kind"] for row in rows]  # the peers, too, where they are installed
    assert kinds.count("baseline") == BASELINES
    names = {row["name"].replace(" (openvino)", "") for row in rows}  # whichever engine was the faster one
    assert {"poprt: pack runner, order of arrival", "poprt: packs laid offline, sorted"} <= names
    assert all(row["name"] in printed for row in rows)
    (runner,) = [row for row in rows if row["paired"] is None]
    assert runner["name"].startswith("poprt: pack runner")
    assert all(row["paired"]["ratio"]["median"] > 0 for row in rows if row is not runner)
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")


def test_absent_peers_are_named_with_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    without_peers(monkeypatch)
    result = measure_case(Case("tiny", SHORT, "fp32"), QUICK, ignore)
    assert "pip install ctranslate2" in result.absent["CTranslate2"]
    assert "pip install openvino" in result.absent["OpenVINO"]
    assert len(result.rows) == BASELINES + 2


def test_shares_are_of_the_best_product_and_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    without_peers(monkeypatch)
    monkeypatch.setattr(peak, "measure_peak", lambda *_: Peak("FMA", 1e15))
    result = measure_case(Case("tiny", SHORT, "fp32"), QUICK, ignore)
    for row in result.rows:
        assert row.peak_share == pytest.approx(row.roof_share * result.roof.theirs.median / 1e15)
    text = printed(result)
    assert f"{result.best}, " in text
    assert "Peak: 1000000 GFLOP/s, FMA" in text


def test_without_a_peak_the_table_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    without_peers(monkeypatch)
    monkeypatch.setattr(peak, "measure_peak", lambda *_: None)
    result = measure_case(Case("tiny", SHORT, "int8"), QUICK, ignore)
    assert {row.peak_share for row in result.rows} == {None}
    assert "no instruction that multiplies and adds int8" in result.absent["arithmetic peak"]
    assert "Peak:" not in printed(result)


def printed(result: CaseResult) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(case_table(result))
    return console.export_text()


def test_a_contender_with_wrong_numbers_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    without_peers(monkeypatch)
    right = Padded.run

    def wrong(self: Padded, samples: list[Sample]) -> list[Result]:
        results = right(self, samples)
        return [{k: v + 1 for k, v in result.items()} for result in results] if self.sort else results

    monkeypatch.setattr(Padded, "run", wrong)
    field = Field(Case("tiny", SHORT, "fp32"), Requests(SHORT, 1000), ignore)
    entries = list(field.others())
    assert len(entries) == BASELINES
    assert all(entry.unit >= 2 * 16 for entry in entries if entry.offline)
    assert [name.split(",")[0] for name, why in field.absent.items() if "wrong numbers" in why] == [
        "onnxruntime: sorted by length"
    ]


def test_a_contender_is_made_only_when_the_one_before_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    without_peers(monkeypatch)
    engines: list[weakref.ref[OnnxRuntime]] = []
    opened = OnnxRuntime.__init__

    def note(self: OnnxRuntime, *arguments: Any, **options: Any) -> None:
        engines.append(weakref.ref(self))
        opened(self, *arguments, **options)

    monkeypatch.setattr(OnnxRuntime, "__init__", note)
    live = []
    for entry in Field(Case("tiny", SHORT, "fp32"), Requests(SHORT, 1000), ignore).others():
        del entry
        live.append(sum(engine() is not None for engine in engines))
    assert max(live) == 1


def test_both_sides_of_a_pair_begin_at_the_same_request() -> None:
    engine = OnnxRuntime(build("tiny").SerializeToString(), threads=1)
    small, large = (Sliced(Padded("x", engine, rows), Requests(SHORT, 1000), 16 * rows, 32) for rows in (1, 2))
    for turn in range(2):
        small(turn)
        large(turn)
    for one, two in zip(small.timing.slices, large.timing.slices, strict=True):
        assert two.lengths[:16] == one.lengths
    assert small.timing.slices[0].lengths != small.timing.slices[1].lengths
    assert small.timing.padding == 0 < large.timing.padding


def test_a_slice_is_whole_batches_and_one_unit_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnnxRuntime(build("tiny").SerializeToString(), threads=1)
    way, requests = Padded("x", engine, 1), Requests(SHORT, 1000)
    for rate, count in ((0.1, 32), (100.0, 48)):
        monkeypatch.setattr(rounds, "requests_per_second", lambda *_, rate=rate: rate)
        assert rounds.slice_count(way, requests, 0.5, least=20 if rate == 100 else 32) == count


def test_a_timing_gives_medians_over_its_slices() -> None:
    slices = [Slice((10, 10), 40, seconds, seconds / 2) for seconds in (1.0, 4.0, 2.0)]
    timing = Timing(slices)
    assert timing.tokens_per_second == 10
    assert timing.padding == 0.5
    assert timing.overhead == 0.5
    assert Timing([Slice((1,), 1, 1.0, None)]).overhead is None


def test_the_fastest_form_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"slow": 3.0, "quick": 1.0, "slower": 4.0}
    monkeypatch.setattr(rounds, "time_slice", lambda way, *_: Slice((1,), 1, seconds[way.name], None))
    engine = OnnxRuntime(build("tiny").SerializeToString(), threads=1)
    forms = [Padded(name, engine, 1) for name in seconds]
    assert rounds.fastest(forms, Requests(SHORT, 1000), 4, 1, 1.0, ignore).name == "quick"
