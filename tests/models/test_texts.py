"""The texts of the demo."""

from __future__ import annotations

from models.texts import texts, topics


def test_every_topic_has_queries_and_sentences() -> None:
    assert len(topics()) == 30
    assert all(len(topic.queries) == 2 and len(topic.sentences) >= 6 for topic in topics())


def test_texts_are_distinct_and_the_same_each_time() -> None:
    first = texts()
    assert first == texts()
    assert first != texts(seed=1)
    assert len({item.text for item in first}) == len(first) >= 300


def test_most_texts_are_short_and_a_few_are_long() -> None:
    words = sorted(len(item.text.split()) for item in texts())
    assert words[0] <= 3
    assert words[len(words) // 2] < 25
    assert words[-1] > 120
