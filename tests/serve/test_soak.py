"""The soak in short, and that its clients see what a server does wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.serve.http_client import Answer, post
from tests.serve.fake_server import answer, fake_server
from tests.serve.soak import Soak, soak
from tests.serve.soak_clients import Mix, Tally, ask_all
from tests.serve.soak_requests import Ask, distinct_texts, invalid_asks, right_asks
from tests.serve.soak_server import Life, SoakServer

TEN = Ask(post("/x", "ten"), lambda answered: answered.body == b"10")
RIGHT = answer(b"10")


def ask(behave: Callable[[int, bytes], bytes | None], requests: int = 10, **options: object) -> Tally:
    """What one client meets at a server that behaves so."""
    faults = {name: options.pop(name) for name in ("unread", "closing") if name in options}
    tally = Tally()
    with fake_server(behave, **faults) as port:  # type: ignore[arg-type]
        mix = Mix(port, requests, [TEN], [TEN], 0.0, 0.0)
        asyncio.run(ask_all(replace(mix, **options), 1, tally))  # type: ignore[arg-type]
    return tally


def test_a_short_soak_has_nothing_wrong_lost_or_left() -> None:
    lines: list[str] = []
    done = soak(1500, 16, 2, lines.append)
    assert [*done.tally.examples, *done.faults] == []
    assert done.tally.begun == 1500 == done.tally.right + done.tally.refused + done.tally.vanished
    assert min(done.tally.right, done.tally.refused, done.tally.vanished) > 0
    assert len(lines) == 2
    assert len(done.server.lives) == 3
    assert "0 wrong, 0 lost; 2 restarts" in done.summary()


def test_right_answers_are_counted() -> None:
    tally = ask(lambda number, request: RIGHT)
    assert (tally.right, tally.wrong, tally.lost, tally.again) == (10, 0, 0, 0)


def test_another_text_s_vector_is_wrong() -> None:
    texts, vectors = ["one", "two"], np.eye(2, dtype=np.float32)
    for asked in right_asks(texts, vectors, 30):
        body = json.loads(asked.request.split(b"\r\n\r\n", 1)[1])
        if "inputs" in body:
            rows = [vectors[texts.index(text)].tolist() for text in body["inputs"]]
            assert asked.right(Answer(200, json.dumps(rows).encode()))
            assert not asked.right(Answer(200, json.dumps([row[::-1] for row in rows]).encode()))
            assert not asked.right(Answer(500, json.dumps(rows).encode()))
            assert not asked.right(Answer(200, json.dumps([*rows, rows[0]]).encode()))


def test_a_wrong_answer_is_counted_and_shown() -> None:
    tally = ask(lambda number, request: answer(b"11") if number == 3 else RIGHT)
    assert (tally.right, tally.wrong) == (9, 1)
    assert "11" in tally.examples[0]


def test_a_request_that_was_read_and_has_no_answer_is_lost() -> None:
    tally = ask(lambda number, request: None if number == 3 else RIGHT)
    assert (tally.right, tally.lost, tally.again) == (9, 1, 0)


def test_a_request_with_half_an_answer_is_lost() -> None:
    tally = ask(lambda number, request: RIGHT[:-1] if number == 3 else RIGHT, closing={3})
    assert (tally.right, tally.lost, tally.again) == (9, 1, 0)


def test_a_request_that_was_not_read_is_asked_again() -> None:
    tally = ask(lambda number, request: RIGHT, unread={3, 4})
    assert (tally.right, tally.lost) == (10, 0)
    assert tally.again == 2


def test_a_request_to_a_connection_that_was_just_closed_is_asked_again() -> None:
    tally = ask(lambda number, request: RIGHT, requests=40, closing=range(1, 1000, 2))
    assert (tally.right, tally.lost) == (40, 0)


def test_a_server_that_drains_is_asked_again() -> None:
    tally = ask(lambda number, request: answer(b"", 503) if number == 3 else RIGHT)
    assert (tally.right, tally.wrong, tally.again) == (10, 0, 1)


def test_clients_vanish_and_send_invalid_requests_as_often_as_is_asked_for() -> None:
    tally = ask(lambda number, request: RIGHT, requests=40, vanishing_share=1.0)
    assert (tally.vanished, tally.right) == (40, 0)
    tally = ask(lambda number, request: RIGHT, requests=40, invalid_share=1.0)
    assert (tally.refused, tally.right) == (40, 0)


def test_an_invalid_request_that_is_answered_is_wrong() -> None:
    judged = [
        (asked.right(Answer(200, b"{}")), asked.right(Answer(500, b"")), asked.right(Answer(413, b"")))
        for asked in invalid_asks()
    ]
    assert set(judged) == {(False, False, True)}


def test_texts_are_distinct() -> None:
    assert len(set(distinct_texts(300))) == 300


def test_what_is_left_or_grows_is_a_fault(tmp_path: object) -> None:
    server = SoakServer(tmp_path)  # type: ignore[arg-type]
    steady, growing = [100 << 20] * 9, [(100 + 10 * step) << 20 for step in range(9)]
    server.lives = [Life(memory=steady, threads=[9]), Life(memory=growing, threads=[9], faults=["exit code 1"])]
    done = Soak(Tally(wrong=1, lost=2), server, sockets=3, threads=4)
    assert done.faults == [
        *("1 wrong", "2 lost", "3 sockets left", "4 threads left"),
        *("memory grew from 145 to 180 MiB", "exit code 1"),
    ]
    assert "GROWING" in done.summary()
