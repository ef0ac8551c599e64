"""Several processes that serve one port, and the one that watches them.

uvicorn has such a supervisor, too. It does not share the cores out, starts a worker that dies at once again and again
without a pause, does not count, and ends with 0 whatever happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from poprt.engine.cpu import usable_cores
from poprt.errors import PoprtError
from poprt.serve import logs, process
from poprt.serve.addresses import SHARES_PORTS, bind, free_port, url
from poprt.serve.environment import METRICS_DIR
from poprt.serve.options import ServeOptions

#: A worker that lives shorter than this, in seconds, after it was ready is one that fails.
SHORT_LIFE = 10.0
#: Failures in a row of one worker that end the supervisor.
MOST_FAILURES = 5
#: Seconds before a worker is replaced that failed for the second time in a row; doubled for each further one.
FIRST_PAUSE = 0.5
#: Seconds beyond the drain timeout until a worker that does not end is killed.
KILL_AFTER = 5.0

logger = logging.getLogger("poprt")
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Share:
    """The part of the machine that one worker has.

    Attributes:
        cores: the worker may run on these alone; empty where it may run on all.
        threads: that its models have where it is not bound to cores, which say the same.
    """

    cores: frozenset[int]
    threads: int


def shares(workers: int) -> list[Share]:
    """The usable cores, shared out.

    A container that has time for fewer cores than it sees is bound to none: others might be bound to the same.
    """
    usable = usable_cores()
    seen = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    bound = len(seen) == usable
    parts = []
    for number in range(workers):
        first, last = number * usable // workers, (number + 1) * usable // workers
        count = max(1, last - first)
        cores = frozenset(seen[first % usable : first % usable + count]) if bound else frozenset()
        parts.append(Share(cores, count))
    return parts


@contextlib.contextmanager
def metrics_folder() -> Iterator[None]:
    """A folder in which the workers count together, unless the environment names one.

    Enter it before prometheus_client is imported, which looks for it then.
    """
    if os.environ.get(METRICS_DIR):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="poprt-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[METRICS_DIR] = folder
        try:
            yield
        finally:
            del os.environ[METRICS_DIR]


def supervise(models: Mapping[str, str], options: ServeOptions) -> None:
    """Serve by ``options.workers`` processes until SIGTERM or SIGINT; they answer what is under way and end.

    Raises:
        PoprtError: the port is in use, a worker cannot start, or fails again and again.
    """
    with metrics_folder():
        sockets = bind(options.host, free_port(options.host, options.port), shared=True)
        try:
            Supervisor(models, options, sockets).run()
        finally:
            for bound in sockets:
                bound.close()


class Worker:
    """One of the processes, and those that took its place."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.process: Any = None
        self.reports: Connection | None = None
        self.ready_at: float | None = None  # None: not yet
        self.failures = 0
        self.start_at = 0.0  # when it is to be started; infinite while it runs

    def start(self, target: Any, *arguments: Any) -> None:
        """Start a process."""
        self.reports, sender = _spawn.Pipe(duplex=False)
        self.process = _spawn.Process(target=target, args=(*arguments, self.share, sender), name="poprt-worker")
        self.process.start()
        sender.close()
        self.ready_at, self.start_at = None, math.inf

    def ended(self, now: float) -> None:
        """Take note of an end that was not asked for, and when to start again."""
        short = self.ready_at is None or now - self.ready_at < SHORT_LIFE
        self.failures = self.failures + 1 if short else 1
        self.start_at = now + (FIRST_PAUSE * 2 ** (self.failures - 2) if self.failures > 1 else 0)
        self.process, self.ready_at = None, None

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended gets none."""
        if self.process is not None and self.process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class Supervisor:
    """Starts workers, replaces those that end, and ends them all."""

    def __init__(self, models: Mapping[str, str], options: ServeOptions, sockets: list[socket.socket]) -> None:
        self._models, self._sockets = dict(models), sockets
        self._options = dataclasses.replace(options, port=sockets[0].getsockname()[1])
        self._workers = [Worker(share) for share in shares(options.workers)]
        self._announced = False
        self._stopping = False
        self._failure: str | None = None
        self._restarts = _restart_counter()

    def run(self) -> None:
        """Serve. Raises PoprtError as :func:`supervise` says."""
        with self._woken_by_signals() as wake:
            try:
                while not self._stopping:
                    self._start_due()
                    self._wait(wake)
            finally:
                self._stop()
        if self._failure is not None:
            raise PoprtError(self._failure)

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.start_at <= now:
                sockets = [] if SHARES_PORTS else self._sockets
                worker.start(serve_share, self._models, self._options, sockets)

    def _wait(self, wake: socket.socket) -> None:
        """Until a signal, a report, an end, or the time to start a worker again."""
        now = time.monotonic()
        due = min(worker.start_at for worker in self._workers)
        running = [worker for worker in self._workers if worker.process is not None]
        sources = [wake, *(worker.process.sentinel for worker in running)]
        sources += [worker.reports for worker in running if worker.reports is not None]
        ready = wait(sources, None if math.isinf(due) else max(0.0, due - now))
        if wake in ready:
            wake.recv(64)
        for worker in running:
            if worker.reports in ready:
                self._read_report(worker)
            if worker.process.sentinel in ready and not self._stopping:
                self._replace(worker)

    def _read_report(self, worker: Worker) -> None:
        assert worker.reports is not None
        try:
            kind, content = worker.reports.recv()
        except (EOFError, OSError):
            worker.reports.close()
            worker.reports = None
            return
        if kind == "ready":
            worker.ready_at = time.monotonic()
            logger.info("worker %d is ready", worker.process.pid)
            self._announce(content)
        elif not self._announced:  # nothing was served yet: others would fail as this one did
            self._failure, self._stopping = content, True
        else:
            logger.error("%s", content)

    def _announce(self, lines: Sequence[str]) -> None:
        if self._announced or any(worker.ready_at is None for worker in self._workers):
            return
        self._announced = True
        address = url(self._sockets, secure=bool(self._options.ssl_certfile))
        for line in (*lines, f"serving on {address} by {len(self._workers)} processes"):
            logger.info("%s", line)

    def _replace(self, worker: Worker) -> None:
        worker.process.join()
        process_id, code = worker.process.pid, worker.process.exitcode
        while worker.reports is not None and worker.reports.poll():
            self._read_report(worker)
        if self._stopping:
            return
        _forget_gauges(process_id)
        worker.ended(time.monotonic())
        if worker.failures >= MOST_FAILURES:
            self._failure = f"a worker ended {worker.failures} times in a row, the last time with {_said(code)}"
            self._stopping = True
            return
        self._restarts.inc()
        logger.error("worker %d ended with %s and is replaced", process_id, _said(code))

    def _stop(self) -> None:
        """Let the workers drain; kill those that do not end."""
        for bound in self._sockets:
            bound.close()
        running = [worker for worker in self._workers if worker.process is not None]
        for worker in running:
            worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._options.drain_timeout + KILL_AFTER
        for worker in running:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[socket.socket]:
        """A socket that can be read once a signal came; SIGTERM and SIGINT are the end."""
        wake, write = socket.socketpair()
        write.setblocking(False)
        ends = (signal.SIGTERM, signal.SIGINT)
        ignored = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
        before = {number: signal.getsignal(number) for number in (*ends, *ignored)}

        def stop(*_: object) -> None:
            self._stopping = True

        for number in ends:
            signal.signal(number, stop)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        descriptor = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake.close()
            write.close()


def _restart_counter() -> Any:
    from prometheus_client import Counter  # here: it reads once, at import, where processes count together

    return Counter("poprt_worker_restarts", "Worker processes that ended and were replaced.", registry=None)


def _forget_gauges(process_id: int) -> None:
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(process_id)  # type: ignore[no-untyped-call]


def _said(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"code {code}"


def serve_share(
    models: Mapping[str, str], options: ServeOptions, sockets: list[socket.socket], share: Share, reports: Connection
) -> None:
    """The whole life of a worker. It reports when it takes requests, or why it cannot."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the supervisor tells when to end
    logs.configure(options.log_format)
    if share.cores:
        os.sched_setaffinity(0, share.cores)
    else:
        count = share.threads
        options = dataclasses.replace(options, threads=options.threads or count, lanes=options.lanes or count)
    _end_with_parent()
    try:
        sockets = sockets or bind(options.host, options.port, shared=True)
        process.run(models, options, sockets, lambda lines: reports.send(("ready", list(lines))), (signal.SIGTERM,))
    except (PoprtError, OSError) as error:
        with contextlib.suppress(OSError):
            reports.send(("failed", str(error)))
        sys.exit(1)


def _end_with_parent() -> None:
    """Drain and end when the supervisor is gone, however it went."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="poprt-parent", daemon=True).start()
