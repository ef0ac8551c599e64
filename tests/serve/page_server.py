"""A server with the page, its figures and metrics, over tiny models."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import uvicorn
from fastapi import FastAPI

from poprt.serve.app import create_app
from poprt.serve.metrics import Metrics
from poprt.serve.options import ServeOptions

SOON = 30


def page_app(models: Mapping[str, Any], options: ServeOptions | None = None) -> FastAPI:
    """An application with the page, ``/live`` and ``/metrics``."""
    return create_app(models, options, Metrics())


@contextlib.contextmanager
def served(models: Mapping[str, Any], options: ServeOptions | None = None) -> Iterator[str]:
    """Serve on a free port, in a thread; gives the address."""
    app = page_app(models, replace(options or ServeOptions(), port=0))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + SOON
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SOON)
