"""A contender's server while it runs: its answers and its CPU time."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import psutil

from benchmarks.contenders import Array
from benchmarks.serve.contenders import Contender
from benchmarks.serve.starting import HOST, ServerError, ServerProcess


class RunningServer:
    """A contender's server while it is entered.

    Attributes:
        port: on which it listens.
    """

    def __init__(self, contender: Contender) -> None:
        self.contender = contender

    def __enter__(self) -> Self:
        self._process = ServerProcess(
            self.contender.name,
            self.contender.command,
            lambda port: self._embed(port, "a first text"),
            self.contender.environment,
        )
        self.port = self._process.port
        self._process.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.__exit__(kind, error, trace)

    def cpu_seconds(self) -> float:
        """User and system time so far, of the server's process and of all that it started."""
        root = psutil.Process(self._process.pid)
        times = [process.cpu_times() for process in [root, *root.children(recursive=True)]]
        alive = sum(each.user + each.system for each in times)
        return float(alive + times[0].children_user + times[0].children_system)

    def loop_seconds(self) -> float:
        """CPU time so far of the process's first thread, in which the event loop of such a server runs."""
        process = psutil.Process(self._process.pid)
        first = next(thread for thread in process.threads() if thread.id == process.pid)
        return float(first.user_time + first.system_time)

    def embed(self, texts: Sequence[str]) -> Array:
        """The embeddings of texts, one a request: float32 [n, d].

        Raises:
            ServerError: an answer is not 200.
        """
        return np.array([self._embed(self.port, text) for text in texts], np.float32)

    def _embed(self, port: int, text: str) -> list[float]:
        connection = http.client.HTTPConnection(HOST, port, timeout=60)
        try:
            body = json.dumps(self.contender.body(text))
            connection.request("POST", self.contender.path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ServerError(f"{self.contender.name}: answered {answer.status}: {content[:200]!r}")
        vector: list[float] = json.loads(content)["data"][0]["embedding"]
        return vector
