"""A server's process: started on a free port, asked until it is ready, ended by SIGTERM."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from poprt.errors import PoprtError

HOST = "127.0.0.1"
_ROOT = Path(__file__).parents[2]
_LINES = 12  # of the log that a failure shows
_PAUSE = 0.1


class ServerError(PoprtError):
    """A server did not start, did not end, or answered what it should not."""


class ServerProcess:
    """A server that runs while it is entered.

    Args:
        name: in messages.
        command: to start it; ``{port}`` stands for the port.
        ready: asked with the port again and again; OSError, HTTPException and ServerError mean: not yet.
        environment: variables beside those of this process.
        start_seconds, end_seconds: until it is ready, and from SIGTERM to its end, at most.
        port: None takes a free one.

    Attributes:
        port: on which it listens.
        pid: of the process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        ready: Callable[[int], object],
        environment: Mapping[str, str] | None = None,
        *,
        start_seconds: float = 300.0,
        end_seconds: float = 40.0,
        port: int | None = None,
    ) -> None:
        self.name = name
        self.port = port or free_port()
        self._ready, self._start_seconds, self._end_seconds = ready, start_seconds, end_seconds
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        # Started in the main thread: on Linux the process ends with the thread that started it (see launch.py).
        words = [word.format(port=self.port) for word in command]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve.launch", str(os.getpid()), *words],
            cwd=_ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        try:
            self.await_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def await_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            ServerError: it ended, or it takes too long; the message has the last lines of its log.
        """
        deadline = time.monotonic() + self._start_seconds
        while self._process.poll() is None:
            try:
                self._ready(self.port)
                return
            except (OSError, http.client.HTTPException, ServerError) as error:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{self.name}: not ready after {self._start_seconds:g} s: {error}\n{self.last_lines()}"
                    ) from error
            time.sleep(_PAUSE)
        raise ServerError(f"{self.name}: ended with exit code {self._process.returncode}\n{self.last_lines()}")

    def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code.

        Raises:
            ServerError: it did not end in time; it was killed then.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(self._end_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ServerError(f"{self.name}: runs {self._end_seconds:g} s after SIGTERM\n{self.last_lines()}") from None

    def close(self) -> None:
        """Forget what it printed. Nothing may be asked afterwards."""
        self._log.close()

    def last_lines(self) -> str:
        """What it printed last."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-_LINES:])

    def _end(self) -> None:
        try:
            self.stop()
        finally:
            self.close()


def healthy(port: int) -> None:
    """Ask ``GET /health``.

    Raises:
        OSError, HTTPException: nobody answers.
        ServerError: the answer is not 200.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 200:
        raise ServerError(f"/health answers {status}")


def free_port() -> int:
    """A port of this machine on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
