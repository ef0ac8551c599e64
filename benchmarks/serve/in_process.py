"""What a text costs the runner alone: tokens in, one text a request, no HTTP and no tokenising."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from poprt.text import TextModel


@dataclass(frozen=True)
class RunnerCost:
    """Texts a second, and milliseconds of CPU time (user and system) a text."""

    rate: float
    cpu_ms: float


def runner_cost(executable: Path, texts: Sequence[str], waiting: int, seconds: float) -> RunnerCost:
    """Keep ``waiting`` requests of one text each in the runner's queue for ``seconds``. Is meant for a process of its
    own: all its CPU time counts."""
    with TextModel(executable) as model:
        tokens = model.tokenize(texts)
        slots = threading.Semaphore(waiting)

        def free(_done: Future[None]) -> None:
            slots.release()

        def run_for(duration: float) -> int:
            count, end = 0, time.perf_counter() + duration
            while time.perf_counter() < end:
                slots.acquire()
                model.submit([tokens[count % len(tokens)]]).done.add_done_callback(free)
                count += 1
            for _ in range(waiting):  # all that were sent are answered
                slots.acquire()
            slots.release(waiting)
            return count

        run_for(seconds / 4)  # warm
        begin, cpu = time.perf_counter(), time.process_time()
        count = run_for(seconds)
        return RunnerCost(count / (time.perf_counter() - begin), 1000 * (time.process_time() - cpu) / count)
