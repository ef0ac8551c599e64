"""The encoder built in code."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from models.bert import HEADS, SIZES, BertConfig, build_bert
from models.dialects import DIALECTS
from tests.numerics import one_by_one, padded, random_samples, run

SHAPES = {
    "qa": {"start_logits": (9,), "end_logits": (9,)},
    "sequence": {"logits": (3,)},
    "token": {"logits": (9, 3)},
    "mean": {"embedding": (64,)},
    "hidden": {"last_hidden_state": (9, 64)},
}


def tiny(head: str, dialect: str, *, position_ids: bool = False, seed: int = 0) -> onnx.ModelProto:
    config = BertConfig(**SIZES["tiny"], head=head, dialect=dialect, position_ids=position_ids, labels=3)
    return build_bert(config, seed)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("head", HEADS)
def test_each_head_gives_its_outputs_in_each_dialect(head: str, dialect: str) -> None:
    outputs = one_by_one(tiny(head, dialect), random_samples([9]))[0]
    assert {name: array.shape for name, array in outputs.items()} == SHAPES[head]


@pytest.mark.parametrize("head", HEADS)
def test_both_dialects_compute_the_same(head: str) -> None:
    samples = random_samples([1, 7, 30])
    for old, new in zip(*(one_by_one(tiny(head, dialect), samples) for dialect in DIALECTS), strict=True):
        for name, array in old.items():
            np.testing.assert_allclose(new[name], array, atol=2e-6)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("head", HEADS)
def test_padding_does_not_change_a_sample(head: str, dialect: str) -> None:
    samples = random_samples([3, 12, 5])
    together = run(tiny(head, dialect), padded(samples))
    for row, alone in enumerate(one_by_one(tiny(head, dialect), samples)):
        for name, expected in alone.items():
            got = together[name][row]
            got = got[: len(expected)] if head in ("qa", "token", "hidden") else got
            np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_position_input_counting_from_zero_equals_counting_in_the_graph(dialect: str) -> None:
    samples = random_samples([4, 11], position_ids=True)
    with_input = one_by_one(tiny("hidden", dialect, position_ids=True), samples)
    without = one_by_one(tiny("hidden", dialect), samples)
    for by_input, counted in zip(with_input, without, strict=True):
        np.testing.assert_array_equal(by_input["last_hidden_state"], counted["last_hidden_state"])


def test_every_input_has_a_say() -> None:
    model = tiny("hidden", "old-torch", position_ids=True)
    sample = padded(random_samples([8], position_ids=True))
    before = run(model, sample)["last_hidden_state"]
    for name in sample:
        changed = dict(sample)
        changed[name] = (
            1 - sample[name] if name in ("attention_mask", "token_type_ids") else sample[name][:, ::-1].copy()
        )
        changed[name][0, 0] = 0
        assert np.abs(run(model, changed)["last_hidden_state"] - before).max() > 1e-4, name


def test_the_seed_decides_the_bytes() -> None:
    first, again, other = (tiny("qa", "new-torch", seed=seed).SerializeToString() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_logits_are_of_order_one() -> None:
    logits = np.concatenate(
        [sample["start_logits"] for sample in one_by_one(tiny("qa", "old-torch"), random_samples([40] * 8))]
    )
    assert 0.1 < logits.std() < 10


def test_unknown_choices_name_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown head 'pool'.*qa, sequence"):
        BertConfig(head="pool")
    with pytest.raises(ValueError, match=r"unknown dialect 'tf'.*old-torch"):
        BertConfig(dialect="tf")
    with pytest.raises(ValueError, match="not a multiple of heads=7"):
        BertConfig(heads=7)
