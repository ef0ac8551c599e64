"""gRPC beside HTTP: what waits and what is dropped, the key, the port, TLS, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from poprt.errors import PoprtError
from poprt.serve.app import create_app
from poprt.serve.kserve.messages import response_class
from poprt.serve.options import ServeOptions
from tests.serve.grpc_calls import ask, error_of, grpc, typed
from tests.serve.servers import until
from tests.serve.text_models import Gate
from tests.serve.v2_models import SOON, server, text_model

KEY = "a-key"
_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost"
)


def test_what_is_queued_is_dropped_when_the_client_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"embed": text_model("embed")}, ServeOptions(lanes=1), grpc=True) as running:
        runner = running.state.models["embed"].runner
        engine = Gate(runner, monkeypatch)
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            first = call.future(typed(["anna"]).SerializeToString(), timeout=SOON)
            assert engine.entered.wait(SOON)
            second = call.future(typed(["berlin"] * 3).SerializeToString(), timeout=SOON)
            until(lambda: runner.pending().requests == 3)
            second.cancel()
            until(lambda: runner.pending().requests == 0)
            engine.open()
            assert first.result(SOON)


def test_the_deadline_of_a_call_frees_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"embed": text_model("embed")}, ServeOptions(lanes=1), grpc=True) as running:
        runner = running.state.models["embed"].runner
        engine = Gate(runner, monkeypatch)
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            first = call.future(typed(["anna"]).SerializeToString(), timeout=SOON)
            assert engine.entered.wait(SOON)
            with pytest.raises(grpc.RpcError) as error:
                call(typed(["berlin"]).SerializeToString(), timeout=0.2)
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            until(lambda: runner.pending().requests == 0)
            engine.open()
            assert first.result(SOON)


def _refuses(address: str) -> bool:
    """Whether a server takes no more calls."""
    with contextlib.suppress(grpc.RpcError):
        return not ask(address, "ServerLive", b"")
    return True


def test_a_full_queue_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ServeOptions(lanes=1, max_queue_requests=4)
    with server({"embed": text_model("embed")}, options, grpc=True) as running:
        engine = Gate(running.state.models["embed"].runner, monkeypatch)
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            first = call.future(typed(["anna"]).SerializeToString(), timeout=SOON)
            assert engine.entered.wait(SOON)
            second = call.future(typed(["berlin"] * 4).SerializeToString(), timeout=SOON)
            runner = running.state.models["embed"].runner
            until(lambda: runner.pending().requests == 4)
            code, _ = error_of(running.grpc, "ModelInfer", typed(["paris"]))
            assert code == "RESOURCE_EXHAUSTED"
            engine.open()
            assert first.result(SOON)
            assert second.result(SOON)


def test_a_key_is_asked_for_but_for_health() -> None:
    with server({"embed": text_model("embed")}, ServeOptions(api_key=KEY), grpc=True) as running:
        for metadata in ((), (("authorization", "Bearer another"),)):
            code, details = error_of(running.grpc, "ModelInfer", typed(["anna"]), metadata=metadata)
            assert (code, KEY in details) == ("UNAUTHENTICATED", False)
        assert ask(running.grpc, "ServerLive", b"").live
        assert ask(running.grpc, "ServerReady", b"").ready
        for metadata in ((("authorization", f"Bearer {KEY}"),), (("x-api-key", KEY),)):
            assert ask(running.grpc, "ModelInfer", typed(["anna"]), metadata=metadata).outputs


def test_a_port_in_use_is_one_line() -> None:
    from poprt.serve.kserve.grpc_server import start

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        app = create_app({"embed": text_model("embed")}, ServeOptions(grpc_port=port))
        with pytest.raises(PoprtError, match=f"grpc_port: {port} on 127.0.0.1"):
            asyncio.run(start(app.state.poprt))
    app.state.poprt.models.close(cancel=True)


def test_tls_has_the_options_of_http(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [*_CERTIFICATE.split(), "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    options = ServeOptions(ssl_keyfile=str(key), ssl_certfile=str(certificate))
    with server({"embed": text_model("embed")}, options, grpc=True) as running:
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(running.grpc.replace("127.0.0.1", "localhost"), credentials) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert response_class("ServerLive").FromString(call(b"", timeout=SOON)).live
        with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=SOON)


def test_a_server_that_stops_answers_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"embed": text_model("embed")}, ServeOptions(lanes=1), grpc=True) as running:
        engine = Gate(running.state.models["embed"].runner, monkeypatch)
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            first = call.future(typed(["anna"]).SerializeToString(), timeout=SOON)
            assert engine.entered.wait(SOON)
            running.stop()
            until(lambda: _refuses(running.grpc))
            engine.open()
            assert first.result(SOON)
