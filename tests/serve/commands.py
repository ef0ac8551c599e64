"""`poprt serve` as a process of its own, with a tiny model."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from poprt.text import PackOptions, pack
from tests.serve.servers import until
from tests.text_folders import embedding_folder


def packed(factory: pytest.TempPathFactory) -> Path:
    """A text model that embeds, packed once a run."""
    path = factory.getbasetemp() / "served.popef"
    if not path.exists():
        folder = factory.mktemp("tiny")
        pack(embedding_folder(folder, "mean"), path, PackOptions(progress=False))
    return path


class Command:
    """A running command. Its stderr goes to a file, so that nobody waits for a reader."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.process, self._errors = process, errors

    @property
    def stderr(self) -> str:
        return self._errors.read_text(encoding="utf-8")

    @property
    def port(self) -> int:
        """The port, once the server is ready."""
        until(lambda: "serving on" in self.stderr or self.process.poll() is not None, 60)
        match = re.search(r"serving on https?://[^ ]*:(\d+)", self.stderr)
        assert match, self.stderr
        return int(match[1])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        """The answer to one request, read to its end."""
        return ask(self.connect(), path, body, **headers)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


def ask(connection: http.client.HTTPConnection, path: str, body: Any = None, **headers: str) -> Any:
    """The answer to one request, with its body in ``content``."""
    data = None if body is None else json.dumps(body)
    kind = {"Content-Type": "application/json"} if body is not None else {}
    connection.request("GET" if body is None else "POST", path, data, {**kind, **headers})
    answer: Any = connection.getresponse()
    answer.content = answer.read()
    return answer


@contextmanager
def serving(tmp_path: Path, *words: object, **environment: str) -> Iterator[Command]:
    """Run ``poprt serve``, and kill it if the test has not ended it."""
    errors = tmp_path / "stderr"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "poprt", "serve", *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=file,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield Command(process, errors)
    finally:
        process.kill()
        process.wait()
