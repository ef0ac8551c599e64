"""Many requests, bad ones and vanishing clients among them, to a server that is restarted under load.

``python -m tests.serve.soak --requests 1000000 --clients 64 --restarts 10``. Every answer is compared with the vector
of its text. The last line sums up; the exit code is 0 where nothing was wrong, nothing lost, and nothing is left.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.serve.generator import run_loop
from poprt.text import PackOptions, TextModel, pack
from tests.serve.soak_clients import Mix, Tally, ask_all
from tests.serve.soak_requests import TOLERANCE, distinct_texts, invalid_asks, right_asks
from tests.serve.soak_server import SoakServer
from tests.text_folders import embedding_folder

_TEXTS, _ASKS = 300, 3000
_LOOK = 0.05  # seconds between two looks at how far the clients are
_MIB = 1 << 20


@dataclass
class Soak:
    """What came of it.

    Attributes:
        tally: what the clients met.
        server: all its processes.
        seconds: in all.
        sockets, threads: of the last process that are left when all clients have gone.
    """

    tally: Tally
    server: SoakServer
    seconds: float = 0.0
    sockets: int = 0
    threads: int = 0

    @property
    def faults(self) -> list[str]:
        """All that was not as it must be."""
        counts = {"wrong": self.tally.wrong, "lost": self.tally.lost, "sockets left": self.sockets}
        counts["threads left"] = self.threads
        growing = [life for life in self.server.lives if not life.flat]
        return [
            *(f"{count} {name}" for name, count in counts.items() if count),
            *(f"memory grew from {life.middle / _MIB:.0f} to {life.memory[-1] / _MIB:.0f} MiB" for life in growing),
            *(fault for life in self.server.lives for fault in life.faults),
        ]

    def summary(self) -> str:
        """One line."""
        tally, lives = self.tally, self.server.lives
        ends = [life.memory[-1] for life in lives]
        drain = max(life.drain_seconds for life in lives)
        flat = "flat" if all(life.flat for life in lives) else "GROWING"
        return (
            f"{tally.begun} requests in {self.seconds:.0f} s: {tally.right} right, {tally.refused} invalid refused, "
            f"{tally.vanished} vanished; {tally.wrong} wrong, {tally.lost} lost; {len(lives) - 1} restarts, slowest "
            f"drain {drain:.1f} s, {tally.again} asked again; memory at the end of each process "
            f"{min(ends) / _MIB:.0f} to {max(ends) / _MIB:.0f} MiB, {flat}; {self.sockets} sockets and {self.threads} "
            "threads left"
        )


def soak(requests: int, clients: int, restarts: int, report: Callable[[str], None] = print) -> Soak:
    """Pack a tiny model, serve it, and ask it.

    Args:
        requests: in all.
        clients: that ask at once.
        restarts: by SIGTERM, spread over the requests.
        report: takes lines of progress.

    Raises:
        ServerError: the server does not start.
        TimeoutError: a request was not answered in a minute.
    """
    with tempfile.TemporaryDirectory() as folder:
        executable = Path(folder) / "tiny.popef"
        pack(embedding_folder(Path(folder) / "tiny", "mean", normalise=True), executable, PackOptions(progress=False))
        texts = distinct_texts(_TEXTS)
        server = SoakServer(executable)
        mix = Mix(server.port, requests, right_asks(texts, _vectors(executable, texts), _ASKS), invalid_asks())
        return run_loop(_soak(server, mix, clients, restarts, report))


def _vectors(executable: Path, texts: list[str]) -> np.ndarray:
    """The vector of each text alone; no two of them could be taken for each other."""
    with TextModel(executable) as model:
        vectors = np.stack([model.encode(text) for text in texts])
    distances = np.abs(vectors[:, None] - vectors[None]).max(axis=2)
    nearest = float(distances[~np.eye(len(texts), dtype=bool)].min())
    assert nearest > 10 * TOLERANCE, f"two texts are only {nearest:.1e} apart: a mix-up would not be seen"
    return vectors


async def _soak(server: SoakServer, mix: Mix, clients: int, restarts: int, report: Callable[[str], None]) -> Soak:
    begin = time.perf_counter()
    tally = Tally()
    await server.start()
    asking = asyncio.create_task(ask_all(mix, clients, tally))
    try:
        for number in range(restarts):
            await _reached(tally, mix.requests * (number + 1) // (restarts + 1), asking)
            await server.stop()
            await server.start()
            report(f"{tally.begun} requests, {number + 1} restarts, {tally.wrong} wrong, {tally.lost} lost")
        await asking
        sockets, threads = await server.settle()
    finally:
        asking.cancel()
        await server.stop()
    return Soak(tally, server, time.perf_counter() - begin, sockets, threads)


async def _reached(tally: Tally, count: int, asking: asyncio.Task[None]) -> None:
    while tally.begun < count and not asking.done():
        await asyncio.sleep(_LOOK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.serve.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--restarts", type=int, default=10)
    options = parser.parse_args(arguments)
    done = soak(options.requests, options.clients, options.restarts, lambda line: print(line, flush=True))
    for line in [*done.tally.examples, *done.faults]:
        print(line)
    print(done.summary())
    return 1 if done.faults else 0


if __name__ == "__main__":
    sys.exit(main())
