"""An encoder's products alone: every way computes them, and the fastest is the roof."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer_openvino
from benchmarks.commands import main
from benchmarks.peak import Peak
from benchmarks.products import Chain
from benchmarks.roof import PRECISIONS, ROWS, Rate, Roof, Way, fastest, higher, measure_products, ways
from benchmarks.workloads import config_of

CONFIG = config_of("tiny")
#: Largest root mean square of the differences, relative to that of the values.
ALLOWED = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.15}


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("No module named 'openvino'", name="openvino")

    monkeypatch.setattr(peer_openvino, "OpenVINO", missing)


def test_operations_are_those_of_the_products_of_a_whole_encoder() -> None:
    assert Chain(CONFIG).flops(8) == 2 * 8 * 2 * (4 * 64 * 64 + 2 * 64 * 128)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize(
    ("precision", "way"),
    [(precision, way) for precision in PRECISIONS for way in ways(precision, CONFIG)],
    ids=lambda value: value.name if isinstance(value, Way) else value,
)
def test_every_way_computes_the_products(precision: str, way: Way, streams: int) -> None:
    chain = Chain(CONFIG)
    try:
        run = way.open(chain, streams)
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    x = chain.input(40)
    expected = x.astype(np.float64)
    for weight in chain.weights:
        expected = expected @ weight
    difference = np.sqrt(np.mean((run(x) - expected) ** 2) / np.mean(expected**2))
    assert difference < ALLOWED[precision]
    assert precision == "fp32" or difference > 1e-4  # it does round


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_absent_engine_is_named_and_the_others_are_measured(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_openvino(monkeypatch)
    rates, absent = measure_products(CONFIG, precision, 0)
    every = [way.name for way in ways(precision, CONFIG)]
    assert set(absent) == {name for name in every if name.startswith("OpenVINO")}
    assert all("pip install openvino" in reason for reason in absent.values())
    assert {rate.way for rate in rates} == set(every) - set(absent)
    assert {rate.rows for rate in rates} == (set(ROWS) if rates else set())
    assert all(rate.flops > 0 for rate in rates)


def test_a_precision_that_no_engine_has_takes_the_roof_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    without_openvino(monkeypatch)
    roof = Roof(CONFIG, "bf16", 0)
    assert roof.best.way in {"onnxruntime", "numpy"}
    assert roof.rate(0) > 0


def test_the_roof_is_the_fastest_way() -> None:
    rates = [Rate("a", 1, 256, 1e9), Rate("b", 2, 512, 3e9), Rate("a", 2, 256, 2e9)]
    assert fastest(rates) is rates[1]
    assert str(rates[1]) == "b, 512 rows, 2 at a time"


def test_of_two_peaks_the_higher_one_counts() -> None:
    low, high = Peak("a", 1e9), Peak("b", 2e9)
    assert higher(low, high) is higher(high, low) is higher(None, high) is high
    assert higher(None, None) is None


def test_the_command_prints_peaks_and_products_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["roof", "--size", "tiny", "--seconds", "0", "--output_dir", str(tmp_path)])
    results = json.loads((tmp_path / "roof.json").read_text())["results"]
    assert [result["precision"] for result in results] == list(PRECISIONS)
    text = " ".join(capsys.readouterr().out.split())  # a title may be wrapped
    assert "[rows, 64] x [64, 128]" in text
    for result in results:
        assert (result["peak"] is None) == ("arithmetic peak" in result["absent"])
        for rate in result["rates"]:
            assert rate["way"] in text
