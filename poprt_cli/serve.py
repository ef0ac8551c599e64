"""`poprt serve`: models behind HTTP and gRPC."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from poprt.engine.choice import CHOICES
from poprt.errors import PoprtError
from poprt_cli.commands import CONTEXT_SETTINGS, as_sizes
from poprt_cli.serve_config import read_config

KEY_VARIABLE = "POPRT_API_KEY"
PASSWORD_VARIABLE = "POPRT_SSL_KEYFILE_PASSWORD"
_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}

_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """A number of bytes: 2MB, 512KB, 1MiB, 2000000."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes."""
        match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z]*)", str(value).strip())
        if match is None or match[2].lower() not in _UNITS:
            self.fail(f"{value!r} is no size; say 2MB, 512KB or a number of bytes", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].lower()])


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A duration: 30, 0.5, 30s, 500ms, 2m."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?(s|ms|m|)", str(value).strip())
        seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
        if not seconds:
            self.fail(f"{value!r} is no duration above 0; say 30, 0.5 or 500ms", param, ctx)
        return seconds


def _load_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Option callback: what the file says is the default of the other options."""
    if path is not None:
        keys = [item.name for item in ctx.command.params if item.name and item.expose_value]
        ctx.default_map = read_config(path, keys)


def _refuse_key(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            "--api-key would show the key to everybody who lists processes: say --api-key-file FILE, or set "
            f"{KEY_VARIABLE}"
        )


_PORT = click.IntRange(0, 65535)
_COUNT = click.IntRange(1)
_FILE = click.Path(dir_okay=False)


@click.command("serve", context_settings=CONTEXT_SETTINGS)
@click.argument("models", nargs=-1, metavar="NAME=FILE...")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), is_eager=True, expose_value=False,
    callback=_load_config, help="YAML with the same keys, and `models: {NAME: FILE}`; options here come first.",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Name or address to listen on; 0.0.0.0 is all.")
@click.option("--port", type=_PORT, default=8000, show_default=True, help="For HTTP; 0 takes a free one.")
@click.option("--grpc-port", type=_PORT, help="For gRPC [default: off].")
@click.option(
    "--max-queue-requests", type=_COUNT, default=4096, show_default=True, help="Texts that may wait; more: 429."
)
@click.option(
    "--max-queue-tokens", type=_COUNT, default=262144, show_default=True, help="Tokens that may wait; more: 429."
)
@click.option(
    "--max-client-batch", type=click.IntRange(0), default=32, show_default=True, help="Texts of a request; 0: no limit."
)
@click.option("--payload-limit", type=Size(), default="2MB", show_default=True, help="Bytes of a body; more: 413.")
@click.option(
    "--request-timeout", type=Seconds(), default="30", show_default=True, help="Then a request is given up: 504."
)
@click.option(
    "--receive-timeout", type=Seconds(), default="10", show_default=True, help="For a client to send a request."
)
@click.option(
    "--drain-timeout", type=Seconds(), default="30", show_default=True, help="For what is under way at the end."
)
@click.option("--auto-truncate", is_flag=True, help="Cut texts that are too long [default: refuse them].")
@click.option("--api-key-file", type=_FILE, help=f"Holds the key that clients must send; or set {KEY_VARIABLE}.")
@click.option("--api-key", hidden=True, expose_value=False, is_eager=True, callback=_refuse_key)
@click.option("--cors-origin", multiple=True, metavar="ORIGIN", help="A web page's origin that may call; repeat it.")
@click.option("--lanes", type=_COUNT, help="Runs at the same time, of each model [default: auto].")
@click.option("--token-budget", type=_COUNT, help="Tokens that a pack aims at [default: auto].")
@click.option("--engine", type=click.Choice(CHOICES), help="Of each model [default: what it was compiled for].")
@click.option(
    "--typical-lengths", callback=as_sizes, metavar="N,N,...", help="Tokens of texts, where engines are timed."
)
@click.option("--tokenizer-threads", type=_COUNT, help="That tokenise, of each model [default: auto].")
@click.option("--workers", type=_COUNT, default=1, show_default=True, help="Processes that share port and cores.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of stderr.")
@click.option("--access-log/--no-access-log", default=True, show_default=True, help="A line for each request.")
@click.option("--ssl-keyfile", type=_FILE, help=f"TLS: the key. Its password, if any, is in {PASSWORD_VARIABLE}.")
@click.option("--ssl-certfile", type=_FILE, help="TLS: the certificate.")
@click.option("--ssl-ca-certs", type=_FILE, help="TLS: who signs the certificates of clients.")
@click.option(
    "--ssl-cert-reqs", type=click.IntRange(0, 2), default=0, help="TLS: of clients; 0 none, 1 optional, 2 required."
)
@click.option("--ssl-ciphers", help="TLS: as OpenSSL writes them.")
def serve_command(
    models: tuple[str, ...], api_key_file: str | None, cors_origin: tuple[str, ...], **options: Any
) -> None:
    """Serve executables over HTTP: OpenAI's and text-embeddings-inference's routes, and KServe v2.

    Each is NAME=FILE, or FILE alone, which has the name that `poprt pack` stored. Addresses and limits have safe
    defaults. SIGTERM and SIGINT drain and end with 0.
    """
    try:
        from poprt.serve.names import named_models  # here: what serves is an extra
        from poprt.serve.options import ServeOptions
        from poprt.serve.start import serve
    except ImportError as error:
        raise PoprtError(f"{error.name} is not installed: pip install 'poprt[serve]'") from error

    options = {
        **options,
        "api_key": _api_key(api_key_file),
        "cors_origins": tuple(cors_origin),
        "typical_lengths": options["typical_lengths"] or (),
        "ssl_keyfile_password": os.environ.get(PASSWORD_VARIABLE) or None,
    }
    serve(named_models(models), ServeOptions(**options))


def _api_key(path: str | None) -> str | None:
    if path is not None:
        try:
            key = Path(path).read_text(encoding="ascii").strip()
        except UnicodeDecodeError as error:
            raise PoprtError(f"--api-key-file: {path!r} is no ASCII text") from error
        if not key:
            raise PoprtError(f"--api-key-file: {path!r} is empty")
        return key
    key = os.environ.get(KEY_VARIABLE, "")
    if KEY_VARIABLE in os.environ and not key.strip():
        raise PoprtError(f"{KEY_VARIABLE} is set and empty: unset it to let everybody in, or say a key")
    return key.strip() or None
