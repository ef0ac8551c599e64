"""Texts on their way through the runner: refused or admitted whole, dropped at once, and fair to other calls."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poprt.errors import InputError, QueueFullError, RunnerClosedError
from poprt.runtime import PackRunnerConfig, Pending, RunFuture
from poprt.runtime.request import Flow
from poprt.text import TextModel
from poprt.text.model import CHUNK
from poprt.text.submission import Submission


@pytest.fixture
def waiting_model(embedder_path: Path) -> Iterator[TextModel]:
    """A model that runs nothing before eight texts wait, which is all that may."""
    config = PackRunnerConfig(
        token_budget=256, lanes=1, timeout_microseconds=60_000_000, send_when_idle=False, queue_limit=8
    )
    with TextModel(embedder_path, config) as model:
        yield model
        model.close(cancel=True)


def test_texts_that_do_not_fit_are_refused_whole(waiting_model: TextModel) -> None:
    model = waiting_model
    tokens = model.tokenize(["the bank"] * 9)
    submission = model.submit(tokens[:5], block=False)
    before = Pending(5, 5 * len(tokens[0]))
    assert model.runner.pending() == before
    with pytest.raises(QueueFullError) as full:
        model.submit(tokens[:4], block=False)
    assert full.value.can_retry
    with pytest.raises(QueueFullError) as full:
        model.submit(tokens, block=False)
    assert not full.value.can_retry
    assert model.runner.pending() == before
    submission.cancel()
    assert model.runner.pending() == Pending(0, 0)
    with pytest.raises(CancelledError):
        submission.wait()


def test_texts_that_fit_are_answered(embedder: TextModel) -> None:
    texts = ["the bank", "my bread is dense", "the"]
    submission = embedder.submit(embedder.tokenize(texts), block=False)
    submission.wait()
    vectors = [buffers["sentence_embedding"] for buffers in submission.buffers]
    np.testing.assert_allclose(vectors, embedder.encode(texts), atol=2e-5)
    embedder.submit([], block=False).wait()


def test_a_text_that_the_model_refuses_is_named_by_its_own_number(waiting_model: TextModel) -> None:
    tokens = waiting_model.tokenize(["the bank", "my bread", "the old bank"])  # the longest one goes first
    tokens[1].ids[1] = 10**6
    with pytest.raises(InputError, match=r"text 11: input 'input_ids': the value 1000000 in place 1 is no row"):
        waiting_model.submit(tokens, first=10, block=False)
    assert waiting_model.runner.pending() == Pending(0, 0)


def test_a_call_that_is_cancelled_leaves_the_queue(waiting_model: TextModel) -> None:
    submission = waiting_model.submit(waiting_model.tokenize(["the bank"] * 4))
    assert submission.done.cancel()
    assert waiting_model.runner.pending() == Pending(0, 0)
    assert concurrent.futures.wait([submission.done], 20).not_done == set()


class HeldRunner:
    """Takes requests and answers none."""

    def __init__(self) -> None:
        self.futures: list[RunFuture] = []
        self.flows: list[Flow | None] = []
        self.before: dict[int, Any] = {}  # number of a request -> what is done before it is taken

    def execute_async(self, inputs: Any, outputs: Any, flow: Flow | None = None) -> RunFuture:
        self.before.get(len(self.futures), lambda: None)()
        self.futures.append(RunFuture())
        self.flows.append(flow)
        return self.futures[-1]


def submission_of(count: int, runner: HeldRunner) -> Submission:
    return Submission([[0]] * count, [{}] * count)  # type: ignore[list-item]


def inputs_of(count: int) -> list[Mapping[str, Any]]:
    return [{}] * count


def test_after_a_text_has_failed_the_rest_is_not_sent() -> None:
    runner = HeldRunner()
    submission = submission_of(10, runner)
    runner.before[4] = lambda: runner.futures[1].set_exception(ValueError("spoilt"))
    submission.send(runner, inputs_of(10))  # type: ignore[arg-type]
    assert len(runner.futures) == 5
    assert [future.cancelled() for future in runner.futures] == [True, False, True, True, True]
    with pytest.raises(ValueError, match="spoilt"):
        submission.wait()


def test_a_call_that_is_cancelled_while_it_is_sent_is_dropped_whole() -> None:
    runner = HeldRunner()
    submission = submission_of(10, runner)
    runner.before[3] = submission.cancel
    submission.send(runner, inputs_of(10))  # type: ignore[arg-type]
    assert [future.cancelled() for future in runner.futures] == [True] * 4
    with pytest.raises(CancelledError):
        submission.wait()
    submission.cancel()


def test_a_call_that_is_cancelled_before_anything_is_sent_is_cancelled() -> None:
    runner = HeldRunner()
    submission = submission_of(3, runner)
    submission.cancel()
    submission.send(runner, inputs_of(3))  # type: ignore[arg-type]
    assert runner.futures == []
    with pytest.raises(CancelledError):
        submission.wait()


@pytest.mark.parametrize("error", [RunnerClosedError("closed"), KeyboardInterrupt()])
def test_whatever_ends_the_sending_drops_what_was_sent(error: BaseException) -> None:
    runner = HeldRunner()

    def fail() -> None:
        raise error

    runner.before[2] = fail
    with pytest.raises(type(error)):
        submission_of(5, runner).send(runner, inputs_of(5))  # type: ignore[arg-type]
    assert [future.cancelled() for future in runner.futures] == [True, True]


def test_the_texts_of_a_call_are_one_flow_and_those_of_another_call_another(
    embedder: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows: list[Flow | None] = []
    execute_async = embedder.runner.execute_async

    def watched(inputs: Any, outputs: Any, flow: Flow | None = None) -> RunFuture:
        flows.append(flow)
        return execute_async(inputs, outputs, flow)

    monkeypatch.setattr(embedder.runner, "execute_async", watched)
    embedder.encode(["the bank"] * (CHUNK + 3))
    embedder.encode("the bank")
    embedder.submit(embedder.tokenize(["the bank"] * 2)).wait()
    assert None not in flows
    assert [len(list(group)) for group in runs(flows)] == [CHUNK + 3, 1, 2]


def runs(flows: list[Any]) -> Iterator[list[Any]]:
    """Those that follow each other and are the same."""
    group: list[Any] = []
    for flow in flows:
        if group and flow is not group[-1]:
            yield group
            group = []
        group.append(flow)
    yield group
