"""Serving as the command does it: by this process, or by several that it watches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from poprt.serve import logs
from poprt.serve.addresses import bind, free_port, url
from poprt.serve.options import ServeOptions
from poprt.serve.process import run
from poprt.serve.workers import supervise

logger = logging.getLogger("poprt")


def serve(models: Mapping[str, str], options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way and return.

    Args:
        models: name -> path of an executable.
        options: with ``workers`` above 1, processes share the port.

    Raises:
        PoprtError: a port is in use, a model cannot be loaded, a lane of one died, or workers end again and again.
    """
    logs.configure(options.log_format)
    if options.grpc_port is not None:
        options = replace(options, grpc_port=free_port(options.host, options.grpc_port, "grpc_port"))
    if options.workers > 1:
        supervise(models, options)
        return
    sockets = bind(options.host, options.port)
    address = url(sockets, secure=bool(options.ssl_certfile))

    def announce(lines: Sequence[str]) -> None:
        for line in (*lines, f"serving on {address}"):
            logger.info("%s", line)

    run(models, options, sockets, announce)
