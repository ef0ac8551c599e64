"""The whole life of a server: it starts or says why not, it drains, it ends when a lane dies."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from poprt.errors import PoprtError
from poprt.serve import logs, process
from poprt.serve.addresses import bind
from poprt.serve.options import ServeOptions
from poprt_cli.main import cli
from tests.serve.commands import ask, packed, serving
from tests.serve.servers import Echo, read_all, read_answer, running, until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory)


def test_a_server_answers_and_drains_on_sigterm(model: Path, tmp_path: Path) -> None:
    with serving(tmp_path, f"tiny={model}", "--port", 0, "--lanes", 1, POPRT_API_KEY="s3cret") as server:
        key = {"X-API-Key": "s3cret"}
        answer: Any = server.ask("/embed", {"inputs": "why is my bread dense"}, **key)
        assert answer.status == 200
        assert answer.getheader("server") is None
        assert server.ask("/embed", {"inputs": "a"}).status == 401
        assert server.ask("/health").status == 200
        assert "tiny: embedding, texts of up to 64 tokens, 1 lane" in server.stderr
        server.process.send_signal(signal.SIGHUP)
        assert server.ask("/health").status == 200

        statuses = under_load(server, key)
        assert server.process.returncode == 0
        assert set(statuses) == {200}
        assert "POST /embed 200" in server.stderr
        assert "s3cret" not in server.stderr
        assert "Traceback" not in server.stderr


def under_load(server: Any, headers: dict[str, str]) -> list[int]:
    """End a server while four clients ask it; the status of each answer. A request that is sent has an answer."""
    statuses: list[int] = []
    port = server.port

    def client() -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.connect()
            except OSError:  # it listens no more
                return
            with contextlib.suppress(ConnectionResetError, http.client.RemoteDisconnected):  # never accepted
                answer = ask(connection, "/embed", {"inputs": ["a", "b"]}, **headers)
                statuses.append(answer.status)
                while answer.getheader("connection") != "close":
                    answer = ask(connection, "/embed", {"inputs": ["a", "b"]}, **headers)
                    statuses.append(answer.status)
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(statuses) > 20)
    server.end()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return statuses


def test_a_server_that_is_to_end_is_not_ready(model: Path, tmp_path: Path) -> None:
    with serving(tmp_path, model, "--port", 0, "--log-format", "json") as server:
        connection = server.connect()
        assert ask(connection, "/health").status == 200
        server.process.send_signal(signal.SIGINT)
        statuses = {200}
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                statuses.add(ask(connection, "/health").status)
        assert statuses == {200, 503}
        assert server.process.wait(60) == 0
        assert server.stderr.startswith('{"time":"')


def test_what_is_under_way_is_answered_and_nobody_else_is_let_in() -> None:
    app = Echo()
    with running(app) as server, server.connect() as connection:
        connection.sendall(b"POST /slow HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        until(lambda: app.paths == ["/slow"])
        server.end()
        until(lambda: refuses(server.port))
        app.release.set()
        assert read_answer(connection).endswith(b"3")


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


class Models(dict[str, Any]):
    """Models that note how they are closed, and then let go of what waits."""

    def __init__(self, release: threading.Event | None = None, **models: Any) -> None:
        super().__init__(models)
        self.closed: list[bool] = []
        self._release = release

    def close(self, cancel: bool = False) -> None:
        self.closed.append(cancel)
        if self._release is not None:
            self._release.set()


@pytest.mark.parametrize("released", [True, False])
def test_what_is_not_answered_in_time_is_given_up(released: bool) -> None:
    app = Echo()
    models = Models(app.release if released else None)
    with running(app, models, drain_timeout=0.3) as server, server.connect() as connection:
        connection.sendall(b"POST /slow HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        until(lambda: app.paths == ["/slow"])
        server.end()
        assert read_all(connection).startswith(b"HTTP/1.1 200") == released  # models that close say why, and in time
    assert models.closed == [True]
    assert app.answered == (["/slow"] if released else [])


class DyingRunner:
    """A runner whose lane dies when it is told to."""

    lanes = 1
    callback: Any = None

    def on_failure(self, callback: Any) -> None:
        self.callback = callback


def test_a_dead_lane_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    app, runner = Echo(), DyingRunner()
    served: Any = SimpleNamespace(name="m", text=None, runner=runner)
    options = ServeOptions(port=0)
    state = SimpleNamespace(models=Models(m=served), options=options, draining=False)
    application: Any = app
    lines: list[str] = []
    sockets = bind(options.host, 0)
    port = sockets[0].getsockname()[1]
    server = process.Server(process.uvicorn_config(application, options), state, lines.extend, ())  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    until(lambda: lines)
    assert lines == ["m: tensors (it has no tokenizer), 1 lane"]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /slow HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        until(lambda: app.paths == ["/slow"])
        runner.callback(RuntimeError("the engine is gone"))  # of a lane's thread
        until(lambda: state.draining)
        app.release.set()
        assert read_answer(connection).endswith(b"3")
    thread.join(20)
    assert not thread.is_alive()
    assert str(server.failure) == "the engine is gone"


def test_the_command_ends_with_a_dead_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("the engine is gone")

    class Ended:
        failure = error

        def __init__(self, *_: Any) -> None: ...

        def run(self, sockets: Any) -> None: ...

    app = SimpleNamespace(state=SimpleNamespace(poprt=None))
    monkeypatch.setattr("poprt.serve.app.create_app", lambda *_: app)
    monkeypatch.setattr(process, "Server", Ended)
    with pytest.raises(PoprtError, match="a lane of the runner died: RuntimeError"):
        process.run({}, ServeOptions(), [], print)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handlers of the tests stay as they are."""
    monkeypatch.setattr(logs, "configure", lambda _: None)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
@pytest.mark.usefixtures("quiet")
def test_a_port_in_use_is_one_line(model: Path, option: str, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=hasattr(socket, "SO_REUSEPORT")) as taken:
        port = taken.getsockname()[1]
        words = ["serve", str(model), "--port", "0", option, str(port), "--workers", str(workers)]
        result = CliRunner().invoke(cli, words, prog_name="poprt")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"poprt: error: {option.strip('-').replace('-', '_')}: {port} on 127.0.0.1 is in use")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--host", "no.such.host.invalid"), "'no.such.host.invalid'"),
        (("--host", "192.0.2.1"), "192.0.2.1"),
        (("--ssl-certfile", "nowhere.pem"), "ssl_certfile"),
    ],
)
def test_what_cannot_be_listened_on_is_one_line(model: Path, words: tuple[str, str], named: str) -> None:
    result = CliRunner().invoke(cli, ["serve", str(model), "--port", "0", *words], prog_name="poprt")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert named in line


@pytest.mark.usefixtures("quiet")
def test_a_file_that_is_no_executable_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.popef"
    path.write_bytes(b"no executable")
    for word in (str(path), f"m={path}"):
        result = CliRunner().invoke(cli, ["serve", word, "--port", "0"], prog_name="poprt")
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert str(path) in line


def test_what_serves_is_an_extra(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['uvicorn'] = None\nfrom poprt_cli.main import main\n"
        "sys.argv = ['poprt', 'serve', 'm.popef']\nmain()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["poprt: error: uvicorn is not installed: pip install 'poprt[serve]'"]


def test_all_addresses_of_a_name_have_one_port() -> None:
    sockets = bind("localhost", 0)
    assert len({bound.getsockname()[1] for bound in sockets}) == 1
    for bound in sockets:
        bound.close()


def test_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", "req", *words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    files = {"ssl_keyfile": str(key), "ssl_certfile": str(certificate)}
    with running(Echo(), receive_timeout=0.5, **files) as server:
        with context.wrap_socket(server.connect()) as connection:
            connection.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
            assert read_answer(connection).endswith(b"3")
        with context.wrap_socket(server.connect()) as connection:
            connection.sendall(b"POST /ec")
            assert b" 408 " in read_all(connection)
