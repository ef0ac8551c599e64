"""One process that serves: uvicorn, from the first model loaded to the last request answered."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import uvicorn

from poprt.errors import PoprtError
from poprt.serve.access_log import AccessLog
from poprt.serve.limits import OPEN_PATHS
from poprt.serve.options import ServeOptions
from poprt.serve.protocol import protocol

if TYPE_CHECKING:
    from poprt.serve.app import State
    from poprt.serve.models import ServedModel

#: Seconds that an idle connection stays open for the next request. Load balancers close after 60: they must be first.
KEEP_ALIVE = 75
#: Connections that may wait to be accepted.
BACKLOG = 2048
#: New objects after which the youngest are searched for cycles.
OBJECTS_BETWEEN_COLLECTIONS = 10_000
#: Seconds for the answers to those whose time to be drained is up.
LAST_ANSWERS = 1.0

#: Paths that are asked again and again, and log nothing as long as they succeed.
QUIET_PATHS = OPEN_PATHS | {"/live"}

logger = logging.getLogger("poprt")


def run(
    models: Mapping[str, str],
    options: ServeOptions,
    sockets: list[socket.socket],
    announce: Callable[[Sequence[str]], None],
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Load the models and serve on bound sockets until one of ``signals``.

    Args:
        announce: gets a line for each model once the server takes requests.
    """
    from poprt.serve.app import create_app  # here: it brings the engine

    app = create_app(models, options)
    _rest_garbage_collector()
    logged = AccessLog(app, options.log_format, QUIET_PATHS) if options.access_log else app
    server = Server(uvicorn_config(logged, options), app.state.poprt, announce, signals)
    server.run(sockets)
    if server.failure is not None:
        raise PoprtError(f"a lane of the runner died: {server.failure!r}")


def _rest_garbage_collector() -> None:
    """Look for cycles less often, and not in what stays until the end. Requests leave few of them behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, *gc.get_threshold()[1:])


def uvicorn_config(app: Any, options: ServeOptions) -> uvicorn.Config:
    """uvicorn's options for an ASGI application. Raises PoprtError where a certificate cannot be used."""
    config = uvicorn.Config(
        app,
        http=protocol(options.receive_timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        ssl_keyfile=options.ssl_keyfile,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile_password=options.ssl_keyfile_password,
        ssl_ca_certs=options.ssl_ca_certs,
        ssl_cert_reqs=options.ssl_cert_reqs,
        ssl_ciphers=options.ssl_ciphers,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise PoprtError(f"ssl_certfile, ssl_keyfile: cannot be used: {error}") from error
    return config


class Server(uvicorn.Server):
    """uvicorn's server: it drains within ``drain_timeout``, ends when a lane dies, and serves gRPC beside HTTP.

    Attributes:
        failure: why a lane died; None as long as none has.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: State,
        announce: Callable[[Sequence[str]], None],
        signals: Sequence[signal.Signals],
    ) -> None:
        super().__init__(config)
        self.failure: BaseException | None = None
        self._state, self._announce, self._signals = state, announce, signals
        self._grpc: Any = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen. Models are loaded."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise PoprtError(f"port: cannot listen: {error.strerror}") from error
        try:
            await self._start_grpc()
        except BaseException:
            await self.shutdown(sockets)
            raise
        loop = asyncio.get_running_loop()
        for model in self._state.models.values():
            model.runner.on_failure(lambda error: loop.call_soon_threadsafe(self._lane_died, error))
        lines = [describe(model) for model in self._state.models.values()]
        if self._grpc is not None:
            lines.append(f"gRPC on port {self._grpc.port}")
        self._announce(lines)

    async def _start_grpc(self) -> None:
        if self._state.options.grpc_port is not None:
            from poprt.serve.kserve import grpc_server  # here: grpcio is an extra of its own

            self._grpc = await grpc_server.start(self._state)

    def _lane_died(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self._end()

    def _end(self, *_: object) -> None:
        """No longer ready; the main loop, which looks every 0.1 s, does the rest."""
        self._state.draining = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, answer what is under way, and close; what is not answered in time gets 503."""
        loop, seconds = asyncio.get_running_loop(), self._state.options.drain_timeout
        self._state.draining = True
        give_up = loop.call_later(seconds, self._give_up)
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        deadline = loop.time() + seconds
        if self._grpc is not None:
            await self._grpc.stop(seconds)
        self.config.timeout_graceful_shutdown = max(0, deadline - loop.time()) + LAST_ANSWERS  # type: ignore[assignment]
        await super().shutdown(sockets)
        give_up.cancel()

    def _give_up(self) -> None:
        logger.warning("requests under way are given up: --drain-timeout is over")
        asyncio.get_running_loop().run_in_executor(None, self._state.models.close, True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on a signal, and with 0, where uvicorn would raise it again at the end. SIGHUP is no reason to end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [*self._signals, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        before = {number: signal.getsignal(number) for number in numbers}
        for number in self._signals:
            signal.signal(number, self._end)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                # Whoever told us to end may repeat it while the process is closing.
                signal.signal(number, signal.SIG_IGN if self.should_exit else handler)


def describe(model: ServedModel) -> str:
    """One line about a model: what it answers, and with what."""
    from poprt.runtime import PackRunner  # here: it brings the engine

    runner = model.runner
    if model.text is None:
        what = "tensors (it has no tokenizer)"
    else:
        what = f"{model.text.task}, texts of up to {model.text.max_length} tokens"
    parts = [what, _counted(runner.lanes, "lane")]
    if isinstance(runner, PackRunner):
        parts.append(f"{runner.token_budget} tokens a pack, {runner.executable.manifest.engine}")
    return f"{model.name}: {', '.join(parts)}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
