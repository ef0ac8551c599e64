"""English texts of mixed length, grouped by topic, for the demo, the benchmarks and tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

_QUERIES = 2  # how many lines of a topic are short queries


@dataclass(frozen=True)
class Topic:
    """Sentences about one thing.

    Attributes:
        name: what they are about.
        queries: short texts, as typed into a search box.
        sentences: whole sentences.
    """

    name: str
    queries: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """A text and the name of its topic."""

    text: str
    topic: str


@lru_cache(maxsize=1)
def topics() -> tuple[Topic, ...]:
    """The topics, in the order of the file."""
    blocks = Path(__file__).with_name("texts.txt").read_text(encoding="utf-8").strip().split("\n\n")
    sections = []
    for block in blocks[1:]:  # the first is the file's comment
        name, *lines = block.splitlines()
        sections.append(Topic(name, tuple(lines[:_QUERIES]), tuple(lines[_QUERIES:])))
    return tuple(sections)


def texts(seed: int = 0) -> list[Text]:
    """All queries and sentences, and passages joined from sentences of one topic, in random arrival order.

    Lengths are skewed as in search traffic: most texts are queries and single sentences, some are passages of up to
    about 130 tokens, and a few run on into the next topic, to about 230. The same seed gives the same list; every text
    occurs once.
    """
    rng = np.random.default_rng(seed)
    collected = []
    every = topics()
    for topic, following in zip(every[::3], every[1::3], strict=True):
        collected.append(Text(" ".join(topic.sentences + following.sentences), topic.name))
    for topic in every:
        collected += [Text(line, topic.name) for line in topic.queries + topic.sentences]
        for size in (2, 3, len(topic.sentences)):
            chosen = rng.permutation(len(topic.sentences))[:size]
            collected.append(Text(" ".join(topic.sentences[index] for index in chosen), topic.name))
    return [collected[index] for index in rng.permutation(len(collected))]
