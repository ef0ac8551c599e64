"""Senders that never finish, and clients that speak no HTTP: raw sockets against a server with a short time."""

from __future__ import annotations

import time

import pytest

from poprt.serve.limits import PayloadLimit
from poprt.serve.protocol import HEADER_LIMIT
from tests.serve.servers import Echo, read_all, read_answer, running, until

HEAD = b"POST /echo HTTP/1.1\r\nHost: test\r\n"


def post(body: bytes, *headers: bytes, path: bytes = b"/echo") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: test", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"POST /ec", id="half a request line"),
        pytest.param(HEAD, id="half a header"),
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\nabc", id="half a body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", id="half a chunk"),
    ],
)
def test_a_request_that_never_ends_is_cut_with_408(sent: bytes) -> None:
    with running(Echo(), receive_timeout=0.2) as server:
        answer = server.send(sent)
        assert status(answer) == 408
        assert b"took longer than 0.2 s" in answer
        assert status(server.send(post(b"abc", b"Connection: close"))) == 200


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "blank lines"])
def test_a_connection_without_a_request_is_closed(sent: bytes) -> None:
    with running(Echo(), receive_timeout=0.2) as server:
        assert server.send(sent) == b""


def test_a_trickle_does_not_buy_time() -> None:
    app = Echo()
    with running(app, receive_timeout=0.3) as server, server.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        connection.setblocking(False)
        answer = b""

        def is_cut() -> bool:
            nonlocal answer
            try:
                connection.send(b"a")
                answer += connection.recv(65536)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return b"408" in answer

        until(is_cut)
        until(lambda: app.gone == ["/echo"])
        assert app.answered == []


def test_the_application_hears_of_a_body_that_was_cut() -> None:
    app = Echo()
    with running(app, receive_timeout=0.2) as server:
        server.send(HEAD + b"Content-Length: 10\r\n\r\nabc")
        until(lambda: app.gone == ["/echo"])
    assert app.answered == []


def test_a_slow_answer_is_not_a_slow_request() -> None:
    app = Echo()
    with running(app, receive_timeout=0.2) as server, server.connect() as connection:
        connection.sendall(post(b"abc", path=b"/slow"))
        until(lambda: app.paths == ["/slow"])
        time.sleep(0.5)
        app.release.set()
        assert read_answer(connection).endswith(b"3")
        time.sleep(0.5)  # idle for longer than a request may take, and for less than keep-alive
        connection.sendall(post(b"four"))
        assert read_answer(connection).endswith(b"4")


def test_half_a_second_request_waits_for_the_answer_to_the_first() -> None:
    app = Echo()
    with running(app, receive_timeout=0.2) as server, server.connect() as connection:
        connection.sendall(post(b"abc", path=b"/slow") + b"POST /ec")
        time.sleep(0.5)
        app.release.set()
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        assert status(read_all(connection)) == 408


def test_pipelined_requests_are_answered_in_turn() -> None:
    with running(Echo(), receive_timeout=0.5) as server:
        answers = server.send(post(b"a") + post(b"bc") + post(b"def", b"Connection: close"))
    assert [part[-1:] for part in answers.split(b"HTTP/1.1 200 OK")[1:]] == [b"1", b"2", b"3"]


def test_headers_without_end_are_refused() -> None:
    with running(Echo()) as server, server.connect() as connection:
        sent = 0
        try:
            connection.sendall(HEAD)
            while sent < 4 * HEADER_LIMIT:
                sent += connection.send(b"X-Filler: " + b"x" * 4000 + b"\r\n")
        except OSError:  # it was cut while we sent
            return
        assert status(read_all(connection)) == 431


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HELO example.org\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_400(sent: bytes) -> None:
    with running(Echo(), receive_timeout=0.5) as server:
        assert status(server.send(sent)) == 400
        assert status(server.send(post(b"abc", b"Connection: close"))) == 200


def test_a_body_longer_than_its_content_length_is_refused() -> None:
    with running(Echo(), receive_timeout=0.3) as server:
        answer = server.send(b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGARBAGE\r\n\r\n")
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1


def chunks(count: int, size: int) -> bytes:
    return (b"%x\r\n" % size + b"x" * size + b"\r\n") * count


def test_a_body_over_the_limit_is_refused_while_it_comes() -> None:
    app = Echo()
    with running(PayloadLimit(app, 1000), receive_timeout=5) as server, server.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(2, 600))  # and no end
        assert read_answer(connection).startswith(b"HTTP/1.1 413")
        connection.sendall(chunks(1, 600) + b"0\r\n\r\n" + post(b"abc"))  # what is left is thrown away
        assert read_answer(connection).endswith(b"3")
    assert app.answered == ["/echo"]


def test_a_body_that_goes_on_after_its_refusal_is_cut() -> None:
    with running(PayloadLimit(Echo(), 1000), receive_timeout=0.2) as server:
        answer = server.send(HEAD + b"Content-Length: 1000000\r\n\r\nabc")
    assert status(answer) == 413
    assert answer.count(b"HTTP/1.1") == 1


def test_a_client_that_vanishes_is_told_to_the_application() -> None:
    app = Echo()
    with running(app) as server:
        for _ in range(3):
            with server.connect() as connection:
                connection.sendall(post(b"abc", path=b"/slow"))
        until(lambda: len(app.gone) == 3)
    assert app.answered == []


def test_no_connection_is_left_behind() -> None:
    with running(Echo(), receive_timeout=0.2) as server:
        for sent in (b"POST /ec", HEAD, b"garbage\r\n\r\n", b"\r\n", HEAD + b"Content-Length: 9\r\n\r\na"):
            server.send(sent)
        until(lambda: not server.server.server_state.connections and not server.server.server_state.tasks)


def test_a_request_that_comes_as_the_server_ends_is_answered() -> None:
    app = Echo()
    with running(app) as server, server.connect() as idle, server.connect() as busy:
        idle.sendall(post(b"a"))
        read_answer(idle)
        busy.sendall(post(b"abc", path=b"/slow"))
        until(lambda: "/slow" in app.paths)
        server.end()
        until(lambda: not server.server.servers[0].is_serving())
        idle.sendall(post(b"abcde"))
        answer = read_all(idle)
        assert answer.endswith(b"5")
        assert b"connection: close" in answer
        app.release.set()
        assert read_all(busy).endswith(b"3")
    assert app.gone == []


UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")


@pytest.mark.parametrize("cut", [0, 40, -3], ids=["one piece", "within the headers", "within the body"])
def test_a_request_that_asks_for_another_protocol_is_answered_with_its_body(cut: int) -> None:
    sent = post(b"abc", *UPGRADE)
    with running(Echo()) as server, server.connect() as connection:
        connection.sendall(sent[:cut])
        time.sleep(0.1)
        connection.sendall(sent[cut:])
        assert read_answer(connection).endswith(b"\r\n\r\n3")
        connection.sendall(post(b"abcd"))
        assert read_answer(connection).endswith(b"\r\n\r\n4")


def test_many_requests_at_once_may_ask_for_another_protocol() -> None:
    chunked = b"\r\n".join((HEAD + b"Transfer-Encoding: chunked", *UPGRADE)) + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    with running(Echo()) as server:
        answers = server.send((post(b"abc", *UPGRADE) + chunked) * 200 + post(b"", b"Connection: close"))
    assert b"".join(part[:1] for part in answers.split(b"\r\n\r\n")[1:]) == b"32" * 200 + b"0"


@pytest.mark.parametrize("trailers", [b"X-A: b\r\n", b"b"], ids=["many", "one"])
def test_trailers_have_the_limit_of_headers(trailers: bytes) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-B: "
    app = Echo()
    with running(app) as server:
        answers = server.send(chunked + b"x\r\nX-C: y\r\n\r\n" + post(b"", b"Connection: close"))
        assert answers.count(b" 200 ") == 2
        answer = server.send(chunked + b"\r\n" * (len(trailers) > 1) + trailers * 300_000)
        assert status(answer) == 431
        until(lambda: app.gone == ["/echo"])


def test_chunks_of_any_size_are_no_trailers() -> None:
    size = b"%x\r\n" % 100_000
    with running(Echo()) as server, server.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + size)
        for following in (size, size, size, b"0\r\n\r\n"):
            time.sleep(0.05)
            connection.sendall(b"a" * 100_000 + b"\r\n" + following)
        assert read_answer(connection).endswith(b"\r\n\r\n400000")
