"""Lines of requests: what they say, and what they never say."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from poprt.serve.access_log import AccessLog


def lines_of(
    capsys: pytest.CaptureFixture[str], app: Any, log_format: str = "text", raises: type[BaseException] | None = None,
    **scope: Any,
) -> list[str]:  # fmt: skip
    """What is written for one request."""
    base = {"type": "http", "method": "POST", "path": "/embed", "raw_path": b"/embed", "client": ("10.0.0.7", 5)}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"a secret text", "more_body": False}

    async def send(message: Any) -> None: ...

    async def run() -> None:
        log = AccessLog(app, log_format, {"/health"})
        request = log(
            {**base, "query_string": b"key=s3cret", "headers": [(b"api-key", b"s3cret")], **scope}, receive, send
        )
        if raises is None:
            await request
        else:
            with pytest.raises(raises):
                await request
        log.flush()

    asyncio.run(run())
    return capsys.readouterr().err.splitlines()


def answers(status: int) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


async def leaves(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def fails(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("a secret text")


def test_a_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines_of(capsys, answers(200))
    assert line.split(" ")[1:5] == ["10.0.0.7:5", "POST", "/embed", "200"]
    assert "s3cret" not in line
    assert "secret" not in line


def test_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines_of(capsys, answers(429), "json")
    fields = json.loads(line)
    assert {name: fields[name] for name in ("client", "method", "path", "status")} == {
        "client": "10.0.0.7:5",
        "method": "POST",
        "path": "/embed",
        "status": 429,
    }
    assert fields["seconds"] >= 0
    assert fields["time"].endswith("Z")
    assert "secret" not in line


@pytest.mark.parametrize(("status", "count"), [(200, 0), (503, 1)])
def test_probes_are_logged_only_where_they_fail(capsys: pytest.CaptureFixture[str], status: int, count: int) -> None:
    assert len(lines_of(capsys, answers(status), path="/health", raw_path=b"/health")) == count


def test_a_client_that_has_gone_is_499_and_a_fault_500(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines_of(capsys, leaves)
    assert " 499 " in line
    (line,) = lines_of(capsys, fails, raises=RuntimeError)
    assert " 500 " in line
    assert "secret" not in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_path_makes_no_line_of_its_own(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    decoded, sent = "/a\nb" + "c" * 5000, b"/a%0Ab" + b"c" * 5000
    (line,) = lines_of(capsys, answers(404), log_format, path=decoded, raw_path=sent)
    assert len(line) < 500


def test_lines_of_many_requests_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []

    class Stream:
        def write(self, text: str) -> None:
            writes.append(text)

        def flush(self) -> None: ...

    monkeypatch.setattr("sys.stderr", Stream())

    async def run() -> None:
        log = AccessLog(answers(200), "text")
        scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "client": None}

        async def nothing(*_: Any) -> Any:
            return {}

        for _ in range(10):
            await log(scope, nothing, nothing)
        assert writes == []
        await log({"type": "lifespan"}, nothing, nothing)

    asyncio.run(run())
    assert [text.count("\n") for text in writes] == [10]
