"""The commands that compare servers and encoders, on a tiny model and for a moment; and what they are made of."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.commands import main
from benchmarks.rounds import WrongNumbersError
from benchmarks.serve import commands, encoders, sources
from benchmarks.serve.generator import closed_loop, open_loop
from benchmarks.serve.http_client import Connection, NoAnswerError, post, request
from benchmarks.serve.starting import ServerError, ServerProcess, free_port
from benchmarks.serve.vectors import check_cosine
from tests.serve.fake_server import answer, fake_server
from tests.text_folders import embedding_folder

ROOT = Path(__file__).parents[2]
ASKED = post("/v1/embeddings", {"input": "a text"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedding_folder(tmp_path_factory.mktemp("folder"), "mean", normalise=True)


def run(command: str, folder: Path) -> Any:
    name, *options = command.split()
    main([name, *options, "--output_dir", str(folder)])
    return json.loads((folder / f"{name}.json").read_text())["results"]


def test_serve_measures_each_server_and_says_which_is_not_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--texts queries --seconds 0.2 --peak_seconds 0.1 --pairs 1 --clients 2 --loads 0.3 0.9"
    result = run(f"serve --folder {folder} {options} --infinity {tmp_path}/none", tmp_path)
    served = {each["name"]: each for each in result["served"]}
    assert list(served)[:2] == ["poprt serve, fp32", "poprt serve, int8"]
    assert "not installed" in served["infinity-emb"]["absent"]
    for name in ("poprt serve, fp32", "FastAPI + plain batching queue"):
        each = served[name]
        assert each["cosine"] > 0.99999
        assert (each["clients"], each["cpu_seconds"] > 0, min(each["rates"]) > 0) == (2, True, True)
        assert [point["fraction"] for point in each["points"]] == [0.3, 0.9]
        assert all(0 < point["p50"] <= point["p99"] <= point["p999"] for point in each["points"])
        assert all(point["failures"] == {} and point["requests"] >= 20 for point in each["points"])
        assert 0 <= each["loop_seconds"] <= each["cpu_seconds"]
    assert served["poprt serve, fp32"]["runner"]["cpu_ms"] > 0
    assert {(each["ours"], each["theirs"]) for each in result["ratios"]} == {
        (name, "FastAPI + plain batching queue") for name in list(served)[:2]
    }
    assert "peak over peak" in capsys.readouterr().out


def test_encode_compares_each_precision_with_each_backend_or_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    rates = run(f"encode --folder {folder} --texts queries --backends torch --seconds 0 --pairs 1", tmp_path)
    assert [(each["ours"], each["theirs"]) for each in rates] == [
        ("TextModel.encode, fp32", "sentence-transformers, torch"),
        ("TextModel.encode, int8", "sentence-transformers, torch"),
    ]
    assert all(each["absent"] for each in rates)  # the folder has no weights for torch


def test_the_options_name_the_texts_and_backends_that_there_are() -> None:
    assert set(commands.TEXTS) == set(sources.TEXTS)
    assert commands.BACKENDS == encoders.BACKENDS


class Known:
    """Embeds each text as its length."""

    batches = (1, 4)

    def encode(self, texts: list[str], batch: int) -> np.ndarray:
        time.sleep(0.001 if batch == 4 else 0.02)
        return np.array([[len(text), batch] for text in texts], np.float32)


def fail() -> Known:
    raise ImportError("no such backend")


def test_an_encoder_in_a_process_of_its_own_is_timed_at_its_best_batch_size() -> None:
    with encoders.RemoteEncoder(encoders.EncoderMaker("x", "fp32", Known)) as encoder:
        encoder.choose_batch(["a"], 0.01)
        assert encoder.encode(["abc", ""]).tolist() == [[3, 4], [0, 4]]
        assert encoder.rate(["a"] * 10, 0.0) > 0


def test_an_encoder_that_cannot_be_made_raises_here() -> None:
    with (
        pytest.raises(ImportError, match="no such backend"),
        encoders.RemoteEncoder(encoders.EncoderMaker("x", "fp32", fail)),
    ):
        pass


def test_wrong_vectors_are_not_timed() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert check_cosine("x", 2 * vectors, vectors, 0.99999) == pytest.approx(1)
    for wrong in (vectors[::-1], vectors[:2], np.full_like(vectors, np.nan)):
        with pytest.raises(WrongNumbersError):
            check_cosine("x", wrong, vectors, 0.99999)


def test_the_sentence_transformers_shell_answers_as_openai_does(monkeypatch: pytest.MonkeyPatch) -> None:
    testclient = pytest.importorskip("fastapi.testclient")
    from benchmarks.serve.shells import sentence_transformers_app

    class Fake:
        def __init__(self, folder: str, device: str) -> None:
            assert (folder, device) == ("somewhere", "cpu")

        def encode(self, text: str, show_progress_bar: bool) -> np.ndarray:
            assert not show_progress_bar
            return np.array([len(text), 0.5], np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Fake))
    client = testclient.TestClient(sentence_transformers_app(Path("somewhere")))
    answered = client.post("/v1/embeddings", json={"input": "abc", "model": "x"}).json()
    assert answered["data"][0]["embedding"] == [3, 0.5]


def in_loop(port: int, work: Callable[[Connection], Any]) -> Any:
    async def go() -> Any:
        connection = await Connection.open(port)
        try:
            return await work(connection)
        finally:
            connection.close()

    return asyncio.run(go())


def test_answers_are_read_whole_one_after_the_other() -> None:
    async def work(connection: Connection) -> list[tuple[int, bytes]]:
        return [tuple(await connection.ask(ASKED)) for _ in range(2)]  # type: ignore[misc]

    with fake_server(lambda number, _: answer(b"x" * 300_000 * (number + 1), 200 + number)) as port:
        answers = in_loop(port, work)
    assert [(status, len(body)) for status, body in answers] == [(200, 300_000), (201, 600_000)]


def test_a_connection_that_the_server_says_it_closes_is_closed() -> None:
    async def work(connection: Connection) -> bool:
        await connection.ask(ASKED)
        return connection.closed

    for header, closed in (("X: y", False), ("connection: close", True)):
        with fake_server(lambda number, _, header=header: answer(b"", 200, header)) as port:  # type: ignore[misc]
            assert in_loop(port, work) is closed


@pytest.mark.parametrize(("unread", "reset"), [((), False), ((0,), True)])
def test_no_answer_tells_whether_the_request_had_been_read(unread: tuple[int, ...], reset: bool) -> None:
    async def work(connection: Connection) -> bool:
        try:
            await connection.ask(ASKED)
        except NoAnswerError as error:
            return error.reset
        raise AssertionError("there is an answer")

    with fake_server(lambda number, _: None, unread=unread) as port:
        assert in_loop(port, work) is reset


def test_a_request_that_comes_after_the_close_was_not_read() -> None:
    async def work(connection: Connection) -> bool:
        await connection.ask(ASKED)
        time.sleep(0.1)
        with pytest.raises(NoAnswerError) as raised:
            await connection.ask(ASKED)
        return raised.value.reset

    with fake_server(lambda number, _: answer(b""), closing={0}) as port:
        assert in_loop(port, work) is True


def test_a_request_has_the_length_of_its_body() -> None:
    assert request("GET", "/x").startswith(b"GET /x HTTP/1.1\r\n")
    head, _, body = post("/x", {"a": "ä"}).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body) == {"a": "ä"}


def test_a_closed_loop_counts_answers_and_failures() -> None:
    with fake_server(lambda number, _: None if number == 3 else answer(b"", 429 if number < 3 else 200)) as port:
        outcome = closed_loop(port, [ASKED], 4, 0.2)
    assert outcome.failures == {429: 3, 0: 1}
    assert len(outcome.latencies) > 4
    assert outcome.cpu_seconds > 0


def test_an_open_loop_sends_each_request_and_counts_time_from_when_it_was_due() -> None:
    requests: list[bytes] = []

    def behave(number: int, received: bytes) -> bytes:
        requests.append(received)
        if number == 0:
            time.sleep(0.3)
        return answer(b"")

    bodies = [post("/x", number) for number in range(7)]
    with fake_server(behave) as port:
        outcome = open_loop(port, bodies, 200, 0.25)
    assert len(requests) == len(outcome.latencies) == 50
    assert {received[-1:] for received in requests} == {b"0", b"1", b"2", b"3", b"4", b"5", b"6"}
    assert max(outcome.latencies) > 0.25
    assert min(outcome.latencies) >= 0


def test_an_open_loop_counts_failures() -> None:
    with fake_server(lambda number, _: answer(b"", 500) if number % 2 else answer(b"")) as port:
        outcome = open_loop(port, [ASKED], 400, 0.1)
    assert outcome.failures == {500: 20}
    assert len(outcome.latencies) == 20


def test_an_open_loop_leaves_connections_that_the_server_closed() -> None:
    with fake_server(lambda number, _: answer(b""), closing=set(range(0, 20, 2))) as port:
        outcome = open_loop(port, [ASKED], 40, 0.5)
    assert outcome.failures == {}
    assert len(outcome.latencies) == 20


def never(port: int) -> None:
    raise ServerError("not yet")


def test_a_server_that_does_not_start_shows_its_last_lines() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with (
        pytest.raises(ServerError, match=r"(?s)x: ended with exit code 1.*no such model"),
        ServerProcess("x", command, never),
    ):
        pass


def test_a_server_that_is_never_ready_is_ended() -> None:
    command = [sys.executable, "-c", "import time; print('I sleep', flush=True); time.sleep(600)"]
    server = ServerProcess("x", command, never, start_seconds=1.0)
    with pytest.raises(ServerError, match=r"(?s)not ready after 1 s: not yet.*"), server:
        pass
    assert not Path(f"/proc/{server.pid}/cmdline").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_killed_benchmark_leaves_no_server_behind(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = (
        "import sys, time\nfrom benchmarks.serve.starting import ServerProcess\n"
        "server = ServerProcess('x', [sys.executable, '-c', 'import time; time.sleep(600)'], print)\n"
        f"open({str(told)!r}, 'w').write(str(server.pid))\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        child = _await(lambda: told.exists() and told.read_text())
        parent.send_signal(signal.SIGKILL)
        parent.wait(60)
        _await(lambda: not _runs(child))
    finally:
        parent.kill()


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _await(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.02)
    return value


def test_a_free_port_can_be_listened_on() -> None:
    with fake_server(lambda number, _: answer(b"")) as port:
        assert free_port() != port
