"""What the application does beside answering: it refuses, gives up, notices who goes, and tells how it is."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import Request

from poprt.compiler import Compiler
from poprt.errors import PoprtError, RunnerClosedError
from poprt.executable import Executable
from poprt.serve import ServeOptions, create_app
from poprt.serve.app import State
from poprt.serve.calls import new_call, watched
from poprt.serve.errors import ClientGone, DeadlineExceeded, NotFound, TooLong, WrongTask, from_exception
from poprt.serve.models import INLINE_CHARACTERS, Models, ServedModel
from poprt.text import TextModel
from poprt.text.folder import pack as packing
from poprt.text.folder.files import ModelFolder
from tests.poprt.fused_models import adds, triples
from tests.serve.servers import until
from tests.serve.text_models import NAMES, TEXTS, Gate, Recorder, executable, own
from tests.serve.v2_models import SOON, Served, arrays_model, padded, server
from tests.text_folders import HIDDEN, embedding_folder


def raw_request(running: Served, texts: list[str]) -> socket.socket:
    """A connection on which texts were sent to ``/embed``, and nothing was read."""
    host, port = running.http.split(":")
    request = httpx.Request("POST", f"http://{running.http}/embed", json={"inputs": texts})
    head = f"POST /embed HTTP/1.1\r\nHost: {running.http}\r\nContent-Length: {len(request.content)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)), timeout=SOON)
    connection.sendall(head.encode() + request.content)
    return connection


def embed(running: Served, texts: list[str]) -> httpx.Response:
    return httpx.post(f"http://{running.http}/embed", json={"inputs": texts}, timeout=SOON)


def test_a_full_queue_refuses_the_whole_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"m": executable("plain")}, ServeOptions(lanes=1, max_queue_requests=4)) as running:
        runner = running.state.models["m"].runner
        gate = Gate(runner, monkeypatch)
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(embed, running, TEXTS[:1])
            assert gate.entered.wait(SOON)
            second = threads.submit(embed, running, TEXTS)
            until(lambda: runner.pending().requests == 3)
            refused = embed(running, TEXTS[:2])
            assert runner.pending().requests == 3
            gate.open()
            assert (first.result().status_code, second.result().status_code) == (200, 200)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error_type"] == "Overloaded"
        assert embed(running, ["a"] * 5).status_code == 413  # never fits: to try again would not help
        openai = httpx.post(f"http://{running.http}/v1/embeddings", json={"input": ["a"] * 5})
        assert (openai.status_code, openai.json()["error"]["code"]) == (413, "payload_too_large")


def test_a_request_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"m": executable("plain")}, ServeOptions(lanes=1, request_timeout=0.3)) as running:
        runner = running.state.models["m"].runner
        gate = Gate(runner, monkeypatch)
        with raw_request(running, TEXTS[:1]):
            assert gate.entered.wait(SOON)
            late = embed(running, TEXTS)
            assert runner.pending().requests == 0
            gate.open()
        assert late.status_code == 504
        assert "not answered in time" in late.json()["error"]


def test_what_is_queued_is_dropped_when_the_client_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Recorder()
    with server({"m": executable("plain")}, ServeOptions(lanes=1), metrics=metrics) as running:
        runner = running.state.models["m"].runner
        gate = Gate(runner, monkeypatch)
        with raw_request(running, TEXTS[:1]):
            assert gate.entered.wait(SOON)
            gone = raw_request(running, TEXTS)
            until(lambda: runner.pending().requests == 3)
            gone.close()
            until(lambda: runner.pending().requests == 0)
            gate.open()
            until(lambda: len(metrics.calls) == 2)
        assert metrics.taken_back == [("m", 3)]
        assert [status for _, status in metrics.calls] == [499, 200]
        assert embed(running, TEXTS).status_code == 200


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_number_is_an_error(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    with server({"m": executable("plain")}) as running:
        worker: Any = running.state.models["m"].runner._worker  # type: ignore[attr-defined]
        run = worker.run

        def spoil(batch: Any) -> Any:
            seconds = run(batch)
            for request in batch:
                for buffer in request.outputs.values():
                    buffer[..., 0] = value
            return seconds

        monkeypatch.setattr(worker, "run", spoil)
        answer = embed(running, TEXTS)
        assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
        assert "holds NaN or an infinity" in answer.json()["error"]
        openai = httpx.post(f"http://{running.http}/v1/embeddings", json={"input": "a"})
        assert (openai.status_code, openai.json()["error"]["type"]) == (500, "server_error")


def test_a_dead_lane_is_told_by_health(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"m": executable("plain"), "other": executable("tag")}, ServeOptions(lanes=1)) as running:
        health = f"http://{running.http}/health"
        assert httpx.get(health).status_code == 200
        worker: Any = running.state.models["m"].runner._worker  # type: ignore[attr-defined]

        def die(batch: Any) -> Any:
            raise SystemExit

        monkeypatch.setattr(worker, "run", die)
        assert embed(running, TEXTS).status_code == 503
        answer = httpx.get(health)
        assert answer.status_code == 503
        assert answer.json() == {"error": "model 'm' does not run any more", "error_type": "Unhealthy"}
        assert not running.state.models["m"].ready


def test_a_server_that_drains_is_not_ready_and_answers() -> None:
    with server({"m": executable("plain")}) as running:
        running.state.draining = True
        assert httpx.get(f"http://{running.http}/health").status_code == 503
        assert embed(running, TEXTS).status_code == 200


def test_metrics_are_told_of_every_request() -> None:
    metrics = Recorder()
    with server({"m": executable("plain")}, metrics=metrics) as running:
        assert embed(running, TEXTS).status_code == 200
        httpx.get(f"http://{running.http}/v1/models/x")
        httpx.get(f"http://{running.http}/nothing/here")
    (call, status), *others = metrics.calls
    assert (call.endpoint, call.model, status) == ("/embed", "m", 200)
    assert (call.texts, call.input_tokens) == (3, sum(map(len, own("plain").tokenize(TEXTS))))
    assert min(call.tokenization_seconds, call.queue_seconds, call.inference_seconds) > 0
    assert metrics.closed
    assert [(call.endpoint, status) for call, status in others] == [("/v1/models/{name}", 404), ("other", 404)]


def test_what_fails_outside_the_routes_of_an_api_is_a_500_in_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Recorder()
    with server({"m": executable("plain")}, metrics=metrics) as running:

        def fail() -> Any:
            raise RuntimeError("the secret")

        monkeypatch.setattr(running.state.models["m"].runner, "pending", fail)
        assert httpx.get(f"http://{running.http}/live").status_code >= 400
    assert [(call.endpoint, status) for call, status in metrics.calls] == [("/live", 500)]


def test_a_compressed_request_that_is_refused_has_its_endpoint_in_the_metrics() -> None:
    metrics = Recorder()
    with server({"m": executable("plain")}, metrics=metrics) as running:
        httpx.post(f"http://{running.http}/similarity", content=b"{", headers={"Content-Encoding": "gzip"})
    assert [(call.endpoint, status) for call, status in metrics.calls] == [("/similarity", 400)]


def test_tensors_that_are_taken_back_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Recorder()
    with server({"m": arrays_model(packed=True)}, ServeOptions(lanes=1), metrics=metrics) as running:
        gate = Gate(running.state.models["m"].runner, monkeypatch)
        inputs = [
            {"name": name, "datatype": "INT64", "shape": [2, 4], "data": array.ravel().tolist()}
            for name, array in padded([3, 4], 4).items()
        ]
        body = {"inputs": inputs, "parameters": {"timeout": 100_000}}
        assert httpx.post(f"http://{running.http}/v2/models/m/infer", json=body, timeout=SOON).status_code == 504
        gate.open()
    assert metrics.taken_back == [("m", 2)]


def test_work_for_a_model_that_was_closed_is_refused_as_texts_are() -> None:
    model = ServedModel("m", executable("plain"), ServeOptions())
    model.close()
    with pytest.raises(RunnerClosedError):
        asyncio.run(model.in_pool(list, INLINE_CHARACTERS + 1))


def test_what_nobody_expects_is_logged_and_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with server({"m": executable("plain")}) as running:

        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("the secret")

        monkeypatch.setattr(running.state.models["m"].text, "tokenize", fail)
        answer = embed(running, TEXTS)
    assert "secret" not in answer.text
    assert answer.status_code == 424
    assert any(record.exc_info and "the secret" in str(record.exc_info[1]) for record in caplog.records)


@pytest.mark.parametrize(("characters", "inline"), [(INLINE_CHARACTERS, True), (INLINE_CHARACTERS + 1, False)])
def test_long_texts_are_tokenised_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, characters: int, inline: bool
) -> None:
    model = ServedModel("m", executable("plain"), ServeOptions())
    text = model.text_model()
    tokenize, threads = text.tokenize, []

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return tokenize(*arguments, **options)

    monkeypatch.setattr(text, "tokenize", noted)

    async def ask() -> Any:
        return await model.texts(["x" * characters], new_call(SOON), truncate=True)

    submission = asyncio.run(ask())
    model.close()
    assert [thread is threading.current_thread() for thread in threads] == [inline]
    assert submission.buffers[0]["sentence_embedding"].shape == (HIDDEN,)


def test_a_long_answer_is_written_in_parts_and_whole() -> None:
    with server({"m": executable("plain")}, ServeOptions(max_client_batch=0)) as running:
        texts = [f"the {number} river" for number in range(1200)]
        got = httpx.post(f"http://{running.http}/embed", json={"inputs": texts, "normalize": False}, timeout=SOON)
    np.testing.assert_allclose(got.json(), own("plain").encode(texts), atol=1e-5)


def test_an_embedding_for_each_token_where_the_graph_has_them(tmp_path: Path) -> None:
    files = ModelFolder(embedding_folder(tmp_path, "mean"))
    options = packing.PackOptions(progress=False)
    hidden = files.model().graph.output[0]
    model, facts = packing._prepared(files, options)
    model.graph.output.append(hidden)
    compiled, _ = packing._compiled(model, facts, options, None)
    members = packing.pack(tmp_path, options=options).executable.texts
    with server({"m": compiled.with_texts(members)}) as running:
        url = f"http://{running.http}"
        by_token = httpx.post(f"{url}/embed_all", json={"inputs": TEXTS}).json()
        pooled = httpx.post(f"{url}/embed", json={"inputs": TEXTS, "normalize": False}).json()
    assert [len(rows) for rows in by_token] == [len(item) for item in own("plain").tokenize(TEXTS)]
    np.testing.assert_allclose([np.mean(rows, axis=0) for rows in by_token], pooled, atol=1e-5)


def test_an_executable_without_a_tokenizer_is_served_as_tensors() -> None:
    with server({"m": arrays_model(packed=True)}) as running:
        answer = embed(running, TEXTS)
        assert httpx.get(f"http://{running.http}/info").json()["model_type"] == {"tensors": {}}
    assert answer.status_code == 424
    assert "model 'm' has no tokenizer: send tensors to /v2/models/m/infer" in answer.json()["error"]


def test_models_are_opened_by_name_and_closed_where_one_fails(tmp_path: Path) -> None:
    with pytest.raises(PoprtError, match="models: expected at least one"):
        create_app({})
    before = threading.active_count()
    with pytest.raises(PoprtError, match=r"model 'second': .*cannot be read: No such file"):
        create_app({"first": executable("plain"), "second": tmp_path / "nothing.popef"})
    until(lambda: threading.active_count() == before)


def test_a_text_model_of_the_caller_stays_open() -> None:
    with TextModel(executable("plain")) as text:
        with server({"m": text}, close=False) as running:
            got = embed(running, TEXTS)
        assert got.status_code == 200
        assert text.encode(TEXTS).shape == (3, HIDDEN)


def test_the_application_closes_its_models_when_it_ends() -> None:
    with server({"m": executable("plain")}, close=False) as running:
        state: State = running.state
    model = state.models["m"]
    assert not model.ready
    with pytest.raises(PoprtError, match="closed"):
        model.text_model().encode("a")


def test_models_are_looked_up() -> None:
    models = Models.load({"a": executable("plain"), "b": executable("tag")}, ServeOptions())
    assert models.find(None) is models.default is models["a"]
    assert models.find("b") is models["b"]
    with pytest.raises(NotFound, match="no model 'c'; the models are 'a', 'b'"):
        models.find("c")
    with pytest.raises(WrongTask, match="'b' is for token-classification, this needs one for embedding"):
        models["b"].text_model("embedding")
    models.close()


def test_every_documented_error_has_the_form_that_is_sent(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    sent = {"/embed": http.post("/embed", content=b"{}"), "/v1/embeddings": http.post("/v1/embeddings", content=b"{}")}
    for path, answer in sent.items():
        schema = paths[path]["post"]["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
        assert set(schema["required"]) == set(answer.json())
    for statuses in (paths[path]["post"]["responses"] for path in sent):
        assert {"200", "400", "401", "404", "413", "429", "503", "504"} <= set(statuses)
    assert "text/html" in http.get("/docs").headers["content-type"]


def test_errors_keep_what_a_client_needs() -> None:
    assert from_exception(TimeoutError()).status == 504
    assert isinstance(from_exception(TooLong("x")), TooLong)


def test_the_document_names_the_models_and_the_errors_from_around(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    operations = [(path, operation) for path, methods in paths.items() for operation in methods.values()]
    assert not any("422" in operation["responses"] for path, operation in operations if path.startswith("/v2"))
    assert {path for path, operation in operations if "401" not in operation["responses"]} == {
        "/health",
        "/metrics",
        "/v2/health/live",
        "/v2/health/ready",
    }
    choice = {item["name"]: item["schema"] for item in paths["/embed"]["post"]["parameters"]}
    assert choice["model"]["enum"] == choice["X-Model"]["enum"] == list(NAMES)
    assert paths["/v2/models/{name}"]["get"]["parameters"][0]["schema"]["enum"] == list(NAMES)


@pytest.mark.parametrize("by", ["deadline", "client"])
def test_a_call_ends_with_its_time_and_its_client(by: str) -> None:
    class Cancelled:
        def __init__(self) -> None:
            self.seen = False

        async def wait(self) -> None:
            try:
                await asyncio.sleep(SOON)
            except asyncio.CancelledError:
                self.seen = True
                raise

    async def receive() -> dict[str, str]:
        if by == "deadline":
            await asyncio.sleep(SOON)
        return {"type": "http.disconnect"}

    async def ask(work: Cancelled) -> int:
        request = Request({"type": "http"}, receive)
        with pytest.raises(ClientGone if by == "client" else DeadlineExceeded):
            await watched(new_call(0.1 if by == "deadline" else SOON), request, work.wait())
        await asyncio.sleep(0)  # the task goes on: it is not cancelled itself
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    work = Cancelled()
    assert asyncio.run(ask(work)) == 0
    assert work.seen


def test_a_call_that_is_cancelled_from_outside_stays_cancelled() -> None:
    async def ask() -> None:
        async def receive() -> dict[str, str]:
            await asyncio.sleep(SOON)
            return {}

        task = asyncio.create_task(watched(new_call(SOON), Request({"type": "http"}, receive), asyncio.sleep(SOON)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())


def test_an_executable_of_several_models_is_served_as_its_files(tmp_path: Path) -> None:
    fused = Executable.fused([Compiler.compile(adds()), Compiler.compile(triples())])
    with pytest.raises(PoprtError, match=r"'m': .*holds 2 models.*models\[0\]\.save"):
        ServedModel("m", fused, ServeOptions())
    fused.models[1].save(tmp_path / "second.popef")
    served = ServedModel("m", tmp_path / "second.popef", ServeOptions())
    assert [spec.name for spec in served.executable.outputs] == ["O", "P"]
    served.close()
