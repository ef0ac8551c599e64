"""Names of passes that do nothing here are accepted and announced; no name is both such a one and a pass."""

from __future__ import annotations

import onnx
import pytest

from passes import PassManager, get_pass, get_registered_passes
from passes.announced import ANNOUNCED
from passes.base import Pass
from passes.builtin import BUILT_IN
from passes.errors import UnknownPassError
from passes.registry import announced_passes, check_names
from poprt.converter import Converter
from tests.passes.rewritten import model_of


def small() -> onnx.ModelProto:
    return model_of("g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }")


def announcements(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "no effect" in message]


@pytest.mark.parametrize("name", sorted(ANNOUNCED))
def test_each_says_in_half_a_sentence_why_nothing_is_lost(name: str) -> None:
    reason = ANNOUNCED[name]
    assert reason[0].islower() or reason.startswith(("FP8", "-"))
    assert not reason.endswith(".")
    assert name not in BUILT_IN
    assert name not in get_registered_passes()


def test_asking_for_one_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    step = get_pass("attention_padding", "anything", at_all=True)
    assert step.name == "attention_padding"
    model = small()
    assert [node.op_type for node in step(model).graph.node] == ["Relu"]
    assert Pass.get_pass("attention_padding").name == "attention_padding"
    assert (
        announcements(caplog) == [f"pass attention_padding has no effect here: {ANNOUNCED['attention_padding']}"] * 2
    )  # once for each who asks


@pytest.mark.parametrize("keyword", ["used_passes", "skip_passes"])
def test_the_converter_announces_each_once(keyword: str, caplog: pytest.LogCaptureFixture) -> None:
    names = ["merge_multi_slice", "matmul_rotary_embedding", "merge_multi_slice"]
    converter = Converter(**{keyword: names})
    converter.convert(small())
    assert [message.split()[1] for message in announcements(caplog)] == names[:2]
    assert not {record.name for record in converter.records} & set(names)


def test_a_keyword_of_one_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    Converter(merge_moe="a,b", fold_periodic_initializer=True, merge_if_with_same_cond=True).convert(small())
    assert [message.split()[1] for message in announcements(caplog)] == [
        "merge_moe", "fold_periodic_initializer", "merge_if_with_same_cond",
    ]  # fmt: skip


def test_the_manager_runs_past_one() -> None:
    manager = PassManager(["attention_padding", "sort_graph"])
    manager.run(small())
    assert [record.name for record in manager.records] == ["attention_padding", "sort_graph"]


def test_one_that_is_misspelt_is_offered() -> None:
    with pytest.raises(UnknownPassError, match=r"'attention_paddin'.*did you mean 'attention_padding'"):
        check_names(["attention_paddin"])


def test_the_lists_are_apart() -> None:
    assert announced_passes() == sorted(ANNOUNCED)
    assert not set(announced_passes()) & set(get_registered_passes())
