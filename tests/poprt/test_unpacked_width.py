"""How wide the other engine's graph unpacks: its attention likes multiples of sixteen places."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from benchmarks.contenders import Packed
from benchmarks.workloads import build, convert_packed
from poprt.compiler import Compiler, CompilerOptions
from poprt.compiler.packing_spec import widened
from poprt.engine.session import EngineSession
from poprt.errors import DamagedExecutableError
from poprt.executable import Executable, PackingSpec
from poprt.manifest import ONNXRUNTIME, OPENVINO
from poprt.manifest_rules import check_manifest
from poprt.runtime import PackRunner, PackRunnerConfig
from poprt.runtime.across_rows_session import AcrossRowsSession
from tests.numerics import one_by_one, random_samples

LONGEST = 60


@cache
def compiled(engine: str) -> Executable:
    return Compiler.compile(convert_packed(build("tiny"), LONGEST), options=CompilerOptions(engine=engine))


def packing_of(executable: Executable) -> PackingSpec:
    assert executable.packing is not None
    return executable.packing


def in_onnxruntime(executable: Executable) -> EngineSession:
    """The other engine's graph, which has standard operators alone."""
    return EngineSession(executable.variant(weights_as_inputs=True))


@pytest.mark.parametrize(
    ("longest", "width"),
    [(1, 1), (7, 7), (8, 16), (16, 16), (23, 23), (24, 32), (40, 48), (48, 48), (49, 49), (56, 60), (60, 60)],
)
def test_the_graph_unpacks_as_wide_as_the_manifest_says(longest: int, width: int) -> None:
    executable = compiled(OPENVINO)
    packing = packing_of(executable)
    assert packing.unpacked_width(longest) == width
    session = AcrossRowsSession(in_onnxruntime(executable), executable.manifest, packing)
    lengths = np.array([[1], [longest]], np.int32)
    streams = {name: np.ones(1 + longest, np.int32) for name in packing.dynamic_inputs}
    for result in session.run(streams, lengths, list(packing.outputs)):
        assert result.shape == (2, width)


def test_a_width_is_never_beyond_the_longest_sample_that_is_taken() -> None:
    """56 tokens would have 64 places, where tables of 60 rows end."""
    packing = packing_of(compiled(OPENVINO))
    assert packing.segment_max_size == (LONGEST,)
    assert replace(packing, segment_max_size=(64,)).unpacked_width(56) == 64
    assert max(map(packing.unpacked_width, range(1, LONGEST + 1))) == LONGEST
    assert packing.padded_bytes(3, 24) == packing.padded_bytes(3, 32) > packing.padded_bytes(3, 23)


def test_wider_rows_change_no_answer() -> None:
    samples = random_samples([5, 40, 1, 17, 9, 57, 2, 24, 31, 8])
    with PackRunner(
        compiled(OPENVINO), PackRunnerConfig(token_budget=64), session=in_onnxruntime(compiled(OPENVINO))
    ) as runner:
        answers = Packed("wider", runner).run(samples)
    for answer, expected in zip(answers, one_by_one(build("tiny"), samples), strict=True):
        for name, values in expected.items():
            np.testing.assert_allclose(answer[name], values, atol=2e-5)


def test_onnxruntime_gains_nothing_and_stays_at_the_longest() -> None:
    assert packing_of(compiled(ONNXRUNTIME)).width_multiple == 1
    both = compiled("auto")
    assert packing_of(both).width_multiple == 1
    assert packing_of(both.for_engine(OPENVINO)).width_multiple == 16


@pytest.mark.parametrize(
    "said",
    [
        {"neighbours": "same_length"},
        {"neighbours": "none"},
        {"pair_inputs": {"bias": (1, 2)}},
        {"subsampling": (7, 4, 0)},
        {"ragged": False},
    ],
)
def test_where_more_padding_would_show_there_is_none(said: dict[str, Any]) -> None:
    packing = packing_of(compiled(ONNXRUNTIME))
    assert widened(packing, 16).width_multiple == 16
    assert widened(replace(packing, **said), 16).width_multiple == 1


def test_the_other_graph_may_not_say_nonsense() -> None:
    manifest = compiled("auto").manifest
    weights = max(spec.offset + spec.nbytes for spec in manifest.weights)
    check_manifest(manifest, file_bytes=1 << 30, weight_bytes=weights)
    lies = replace(manifest, other_graphs={OPENVINO: replace(manifest.other_graphs[OPENVINO], width_multiple=0)})
    with pytest.raises(DamagedExecutableError, match=r"other_graphs\.openvino\.width_multiple"):
        check_manifest(lies, file_bytes=1 << 30, weight_bytes=weights)
