"""Heads as torch exports them: a neighbour moves no answer, each equals torch alone, or is refused by name.

Where samples are laid end to end every head is accepted; within rows what is not proved is refused.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

from passes.errors import PackingError
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from poprt.runtime import PackRunner, PackRunnerConfig
from tests.numerics import Arrays

pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")

from tests.isolation import torch_heads

pytestmark = pytest.mark.export

ROWS, COLUMNS, MOST = 3, 24, 6
SOON = 60
#: How far an answer may be from torch's, and how far a neighbour may move it, relative to the answer's size: a pack of
#: one length runs another attention kernel, which rounds otherwise.
UNEQUAL, MOVED = 1e-5, 3e-6
#: A norm over two places divides by a difference that may be all rounding.
ILL_CONDITIONED = 1e-3
LENGTHS = (5, 9, 2, 5, 9, 4)


def samples() -> list[Arrays]:
    """Of a few lengths; two of each common one, which share no token."""
    rng = np.random.default_rng(3)
    half = torch_heads.VOCAB // 2
    return [
        {
            "input_ids": rng.integers(1 + half * (i % 2), half * (1 + i % 2), length),
            "attention_mask": np.ones(length, np.int64),
        }
        for i, length in enumerate(LENGTHS)
    ]


@cache
def compiled(head: str, layout: str) -> Executable:
    model = exported(head)
    options: dict[str, Any] = {"used_passes": ["insert_attention_mask"]} if layout == "within_rows" else {}
    converted = Converter(
        input_shape={value.name: [ROWS, COLUMNS] for value in model.graph.input},
        pack_args={"max_valid_num": MOST, "segment_max_size": COLUMNS},
        disable_progress_bar=True,
        **options,
    ).convert(model)
    return Compiler.compile(converted, None)


@cache
def exported(head: str) -> onnx.ModelProto:
    return torch_heads.exported(head)


def serve(executable: Executable, feeds: list[Arrays], alone: list[np.ndarray], *, together: bool) -> list[np.ndarray]:
    """The answers of a pack runner, which gets the requests at once or one after the other."""
    (name,) = (spec.name for spec in executable.outputs)
    config = PackRunnerConfig(token_budget=0, lanes=1, send_when_idle=not together, timeout_microseconds=20_000)
    answers = [np.full(want.shape, 7, want.dtype) for want in alone]
    with PackRunner(executable, config, threads=1) as runner:
        futures = []
        for sample, answer in zip(feeds, answers, strict=True):
            futures.append(runner.execute_async(sample, {name: answer}))
            if not together:
                futures[-1].wait(SOON)
        for future in futures:
            future.wait(SOON)
    return answers


def assert_isolated(executable: Executable, head: str) -> None:
    feeds = samples()
    alone = torch_heads.alone(head, feeds)
    apart = serve(executable, feeds, alone, together=False)
    for order in (1, -1):
        shared = serve(executable, feeds[::order], alone[::order], together=True)[::order]
        for i, (own, beside, want) in enumerate(zip(apart, shared, alone, strict=True)):
            size = float(np.abs(want).max())
            label = f"sample {i}, {LENGTHS[i]} long"
            allowed = (ILL_CONDITIONED if head in torch_heads.ILL_CONDITIONED else UNEQUAL) * size
            np.testing.assert_allclose(own, want, rtol=0, atol=allowed, err_msg=f"{label}: not torch's answer")
            np.testing.assert_allclose(beside, own, rtol=0, atol=MOVED * size, err_msg=f"{label}: a neighbour shows")


@pytest.mark.parametrize("head", torch_heads.HEADS_BY_NAME)
def test_laid_end_to_end_every_head_is_accepted_and_no_neighbour_shows(head: str) -> None:
    assert_isolated(compiled(head, "across_rows"), head)


@pytest.mark.parametrize("head", torch_heads.RIGHT)
def test_a_head_that_hides_padding_shares_its_packs_with_any_length(head: str) -> None:
    packing = compiled(head, "across_rows").packing
    assert packing is not None
    assert (packing.neighbours, packing.isolation) == ("any", "")


@pytest.mark.parametrize("head", torch_heads.RIGHT)
def test_within_rows_a_head_that_hides_padding_is_accepted(head: str) -> None:
    assert_isolated(compiled(head, "within_rows"), head)


@pytest.mark.parametrize("head", torch_heads.OTHERS)
def test_within_rows_any_other_head_is_refused_by_name_or_right(head: str) -> None:
    refused = ""
    try:
        assert_isolated(compiled(head, "within_rows"), head)
    except PackingError as error:
        refused = str(error)
    assert not refused or any(f"'{node.name}'" in refused for node in exported(head).graph.node), refused
