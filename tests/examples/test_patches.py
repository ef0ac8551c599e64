"""The example of packed images, on a few of them and a tiny encoder."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.contenders import OnnxRuntime
from benchmarks.workloads import compile_packed
from examples.patches import main, make_ways
from models.images import MOST, cut, pictures
from models.vectors import build_vectors, patch_config
from poprt import runtime
from tests.numerics import one_by_one


def test_the_example_prints_four_ways_and_the_difference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    main(["--size", "tiny", "--images", "9", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert sum("x as fast" in line for line in printed.splitlines()) == 3
    assert float(printed.split("unpadded: ")[1].split()[0]) < 1e-5


def test_every_way_but_resizing_gives_each_image_the_answer_that_it_has_alone() -> None:
    images = pictures(9)
    samples = [cut(image) for image in images]
    model = build_vectors(patch_config("tiny"))
    expected = np.stack([answer["embedding"] for answer in one_by_one(model, samples)])
    assert np.ptp(expected, axis=0).max() > 1e-2  # images are told apart
    with runtime.PackRunner(compile_packed(model, MOST), runtime.PackRunnerConfig(token_budget=2048)) as runner:
        ways = make_ways(OnnxRuntime(model.SerializeToString(), threads=1), runner, images)
        alone, padded, resized, packed = (np.stack([one["embedding"] for one in way.run(samples)]) for way in ways)
    for answers in (alone, padded, packed):
        np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert resized.shape == expected.shape
    assert np.abs(resized - expected).max() > 1e-4


def test_what_each_way_feeds_is_counted_in_patches() -> None:
    model = build_vectors(patch_config("tiny"))
    with runtime.PackRunner(compile_packed(model, MOST), runtime.PackRunnerConfig(token_budget=2048)) as runner:
        ways = make_ways(OnnxRuntime(model.SerializeToString(), threads=1), runner, [])
        assert [way.fed([64, 576]) for way in ways] == [640, 1152, 1152, 640]
