"""The server of the soak: started anew under load, and watched."""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.serve.starting import ServerError, ServerProcess, free_port, healthy
from tests.serve.soak_requests import MODEL

_NAP = 0.2  # seconds between two looks at the process
_SETTLE = 10.0  # in which sockets and threads of clients that have gone must be given back
_ENDED = (0, -signal.SIGTERM, None)  # None: its fault is noted already
_GROWTH, _SLACK = 1.1, 16 << 20  # memory that is flat ends no higher than this over its middle


@dataclass
class Life:
    """One process of the server.

    Attributes:
        memory: bytes in memory, look by look.
        threads: look by look.
        drain_seconds: from SIGTERM to the end.
        exit_code: of the process.
        faults: what was not as it must be.
    """

    memory: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    drain_seconds: float = 0.0
    exit_code: int | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def middle(self) -> float:
        """Bytes in memory in the middle of its life."""
        return statistics.median(self.memory[len(self.memory) // 3 : len(self.memory) * 2 // 3 + 1])

    @property
    def flat(self) -> bool:
        """Whether its memory did not grow from the middle on."""
        return self.memory[-1] <= _GROWTH * self.middle + _SLACK


class SoakServer:
    """``poprt serve`` at one port, one process after the other.

    Attributes:
        lives: of all processes; the last one is the present.
    """

    def __init__(self, executable: Path) -> None:
        self._executable = executable
        self.port = free_port()
        self.lives: list[Life] = []
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start a process, and watch it once it is ready.

        Raises:
            ServerError: it does not start.
        """
        command = (sys.executable, "-m", "poprt", "serve", f"{MODEL}={self._executable}", "--port", str(self.port))
        self._process = ServerProcess("poprt serve", command, healthy, port=self.port)
        self._life = Life()
        self.lives.append(self._life)
        await asyncio.to_thread(self._process.await_ready)
        self._status = psutil.Process(self._process.pid)
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Send SIGTERM, and note how the process ended."""
        if self._watching is not None:
            self._watching.cancel()
        begin = time.perf_counter()
        try:
            self._life.exit_code = await asyncio.to_thread(self._process.stop)
        except ServerError as error:
            self._life.faults.append(str(error))
        self._life.drain_seconds = time.perf_counter() - begin
        if self._life.exit_code not in _ENDED:
            self._life.faults.append(f"exit code {self._life.exit_code}\n{self._process.last_lines()}")
        self._process.close()

    async def settle(self) -> tuple[int, int]:
        """Sockets and threads that are left once all clients have gone: beyond none, and beyond those of its middle."""
        usual = int(statistics.median(self._life.threads))
        deadline = time.monotonic() + _SETTLE
        while True:
            connections = self._status.net_connections("tcp")
            sockets = sum(connection.status != psutil.CONN_LISTEN for connection in connections)
            threads = max(0, self._status.num_threads() - usual)
            if not (sockets or threads) or time.monotonic() > deadline:
                return sockets, threads
            await asyncio.sleep(_NAP)

    async def _watch(self) -> None:
        while True:
            self._life.memory.append(self._status.memory_info().rss)
            self._life.threads.append(self._status.num_threads())
            await asyncio.sleep(_NAP)
