"""What a server is told: where it listens, what it takes, how long it waits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from poprt.engine.choice import check_engine
from poprt.errors import PoprtError

LOG_FORMATS = ("text", "json")
#: Whole numbers: the least and the most of each.
_RANGES = {
    "port": (0, 65535),
    "grpc_port": (0, 65535),
    "max_queue_requests": (1, None),
    "max_queue_tokens": (1, None),
    "max_client_batch": (0, None),
    "payload_limit": (1, None),
    "lanes": (1, None),
    "token_budget": (1, None),
    "tokenizer_threads": (1, None),
    "threads": (1, None),
    "workers": (1, 1024),
}
_SECONDS = ("request_timeout", "receive_timeout", "drain_timeout")
_TEXTS = ("ssl_keyfile", "ssl_certfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_ciphers")
_FLAGS = ("auto_truncate", "access_log")


@dataclass(frozen=True)
class ServeOptions:
    """Options of a server. None leaves the choice to the server, or turns the thing off.

    Attributes:
        host: the name or address to listen on.
        port: for HTTP; 0 takes a free one.
        grpc_port: for gRPC; None is off.
        max_queue_requests, max_queue_tokens: what may wait for each model; a request beyond gets 429.
        max_client_batch: most texts of one request; 0 is no limit.
        payload_limit: most bytes of a body, also after inflating.
        request_timeout: seconds until a request is given up with 504.
        receive_timeout: seconds that a client may take to send a request, headers and body.
        drain_timeout: seconds for requests under way when the server is told to end.
        auto_truncate: cut texts that are too long; off, they are refused.
        api_key: what clients must send; None lets everybody in.
        cors_origins: origins of web pages that may call; "*" is all.
        lanes, token_budget, engine, typical_lengths: of each model's runner.
        tokenizer_threads: of each model.
        threads: of the engine, for each model; None takes the usable cores.
        log_format: "text" or "json".
        access_log: a line for each request.
        workers: processes that share the port.
        ssl_keyfile, ssl_certfile, ssl_keyfile_password, ssl_ca_certs, ssl_cert_reqs, ssl_ciphers: as uvicorn's.

    Raises:
        PoprtError: an option is of a wrong type or out of range; the message names it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    max_queue_requests: int = 4096
    max_queue_tokens: int = 262144
    max_client_batch: int = 32
    payload_limit: int = 2_000_000
    request_timeout: float = 30.0
    receive_timeout: float = 10.0
    drain_timeout: float = 30.0
    auto_truncate: bool = False
    api_key: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()
    lanes: int | None = None
    token_budget: int | None = None
    engine: str | None = None
    typical_lengths: tuple[int, ...] = ()
    tokenizer_threads: int | None = None
    threads: int | None = None
    log_format: str = "text"
    access_log: bool = True
    workers: int = 1
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = field(default=None, repr=False)
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = 0
    ssl_ciphers: str | None = None

    def __post_init__(self) -> None:
        defaults = {item.name: item.default for item in fields(self)}
        for name, (least, most) in _RANGES.items():
            _check_whole(name, getattr(self, name), least, most, optional=defaults[name] is None)
        for name in _SECONDS:
            _check_seconds(name, getattr(self, name))
        for name in _TEXTS:
            _check_text(name, getattr(self, name), optional=True)
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise PoprtError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        _check_text("host", self.host, optional=False)
        if not isinstance(self.typical_lengths, tuple):
            raise PoprtError(f"typical_lengths: expected a tuple of whole numbers, got {self.typical_lengths!r}")
        for length in self.typical_lengths:
            _check_whole("typical_lengths", length, 1, None, optional=False)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.engine is not None:
            check_engine("engine", self.engine)
        if self.log_format not in LOG_FORMATS:
            raise PoprtError(f"log_format: expected one of {', '.join(LOG_FORMATS)}, got {self.log_format!r}")
        origins = self.cors_origins
        if not isinstance(origins, tuple) or not all(isinstance(origin, str) and origin for origin in origins):
            raise PoprtError(f"cors_origins: expected a tuple of origins as https://example.org, got {origins!r}")
        if self.grpc_port and self.grpc_port == self.port:
            raise PoprtError(f"grpc_port: {self.grpc_port} is the port for HTTP, too; give another one")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise PoprtError("ssl_keyfile: needs ssl_certfile, the certificate of that key")
        if self.ssl_cert_reqs not in (0, 1, 2):
            raise PoprtError(
                f"ssl_cert_reqs: expected 0 (none), 1 (optional) or 2 (required), got {self.ssl_cert_reqs!r}"
            )
        check_api_key(self.api_key)


def check_api_key(key: object) -> None:
    """Raise PoprtError where a key cannot be sent in a header. No message repeats it."""
    if key is None:
        return
    if not isinstance(key, str) or not key:
        raise PoprtError("api_key: expected a text that is not empty; None lets everybody in")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise PoprtError("api_key: expected letters, digits and signs of ASCII, without blanks")


def _check_whole(name: str, value: Any, least: int, most: int | None, *, optional: bool) -> None:
    if value is None and optional:
        return
    bounds = f"of at least {least}" + ("" if most is None else f" and at most {most}")
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        raise PoprtError(f"{name}: expected a whole number {bounds}, got {value!r}")


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < math.inf):
        raise PoprtError(f"{name}: expected a number of seconds above 0, got {value!r}")


def _check_text(name: str, value: Any, *, optional: bool) -> None:
    if not (isinstance(value, str) and value) and not (optional and value is None):
        raise PoprtError(f"{name}: expected a text that is not empty, got {value!r}")
