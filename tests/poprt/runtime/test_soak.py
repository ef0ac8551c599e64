"""Many clients at once, some of whom send nonsense. ``POPRT_SOAK_REQUESTS=10000`` runs it at full size."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import InputError, RequestTooLongError
from poprt.executable import Executable
from poprt.runtime import PackRunner, PackRunnerConfig
from tests.numerics import Arrays, one_by_one, random_samples

CLIENTS = 56
REQUESTS = int(os.environ.get("POPRT_SOAK_REQUESTS", "1500"))
ROWS, COLUMNS, MOST = 8, 64, 24
KINDS = 64  # samples that differ; requests repeat them
ONE_IN = 100  # so many requests hold one that is invalid
LAYOUTS: dict[str, dict[str, Any]] = {
    "across_rows": {"pack_args": {"max_valid_num": MOST, "segment_max_size": COLUMNS}},
    "within_rows": {"used_passes": "insert_attention_mask"},
}


def too_long(sample: Arrays) -> Arrays:
    return {name: np.resize(values, COLUMNS + 1) for name, values in sample.items()}


def wrong_type(sample: Arrays) -> Arrays:
    return {**sample, "input_ids": sample["input_ids"].astype(np.float32)}


def missing(sample: Arrays) -> Arrays:
    return {name: values for name, values in sample.items() if name != "token_type_ids"}


#: What spoils a request, and the error that its sender, and nobody else, gets.
SPOILED: list[tuple[Callable[[Arrays], Arrays], type[InputError], str]] = [
    (too_long, RequestTooLongError, "65 tokens, at most 64 fit"),
    (wrong_type, InputError, "expected int32, got float32"),
    (missing, InputError, "missing input 'token_type_ids'"),
]


@cache
def world(layout: str) -> tuple[Executable, list[Arrays], list[Arrays]]:
    """The executable, the samples and what the original model gives for each alone."""
    model = build_bert(BertConfig(**SIZES["tiny"], head="qa"))
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    executable = Compiler.compile(Converter(input_shape=shapes, **LAYOUTS[layout]).convert(model))
    samples = random_samples([int(n) for n in np.random.default_rng(0).integers(1, COLUMNS + 1, KINDS)])
    return executable, samples, one_by_one(model, samples)


class Client(threading.Thread):
    """Sends its share of the requests one after the other and writes down what was not as it should be."""

    def __init__(self, runner: PackRunner, layout: str, first: int) -> None:
        super().__init__(daemon=True)
        self.runner, self.first = runner, first
        _, self.samples, self.expected = world(layout)
        self.answered = self.refused = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        for number in range(self.first, REQUESTS, CLIENTS):
            try:
                self.invalid(number) if number % ONE_IN == 0 else self.valid(number)
            except Exception as error:
                self.wrong.append(f"request {number}: {error!r}")

    def valid(self, number: int) -> None:
        sample, expected = self.samples[number % KINDS], self.expected[number % KINDS]
        outputs = {name: np.full(COLUMNS, 9, np.float32) for name in expected}
        self.runner.execute(sample, outputs)
        for name, want in expected.items():
            if not np.allclose(outputs[name][: len(want)], want, atol=1e-5) or outputs[name][len(want) :].any():
                self.wrong.append(f"request {number}: {name} is not what the sample gives alone")
        self.answered += 1

    def invalid(self, number: int) -> None:
        spoil, kind, message = SPOILED[number // ONE_IN % len(SPOILED)]
        outputs = {"start_logits": np.zeros(COLUMNS + 1, np.float32)}
        with pytest.raises(kind, match=message):
            self.runner.execute(spoil(self.samples[number % KINDS]), outputs)
        self.refused += 1


def resident_bytes() -> int:
    """Memory of this process, where the system tells it; else 0."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_request_of_many_clients_gets_its_own_answer_or_its_own_error(layout: str) -> None:
    executable, samples, _ = world(layout)
    with PackRunner(executable, PackRunnerConfig(timeout_microseconds=1000)) as runner:
        warm = [runner.execute_async(sample, {}) for sample in samples * 4]
        for future in warm:
            future.wait(60)
        gc.collect()
        before, start = resident_bytes(), time.perf_counter()
        clients = [Client(runner, layout, first) for first in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60 + REQUESTS / 20)
        seconds, grown = time.perf_counter() - start, resident_bytes() - before
        assert not any(client.is_alive() for client in clients), "a request was never answered"
    print(f"{layout}: {REQUESTS / seconds:.0f} requests/s, {before / 2**20:.0f} MiB, grown by {grown / 2**20:.1f} MiB")
    assert not [line for client in clients for line in client.wrong]
    invalid = len(range(0, REQUESTS, ONE_IN))
    assert sum(client.refused for client in clients) == invalid
    assert sum(client.answered for client in clients) == REQUESTS - invalid
    assert grown < 64 * 2**20
