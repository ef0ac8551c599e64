"""A server of tiny text models, shared by the tests of the APIs on texts."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from poprt.serve.options import ServeOptions
from tests.serve.text_models import NAMES, executable
from tests.serve.v2_models import Served, server


@pytest.fixture(scope="session")
def texts_server() -> Iterator[Served]:
    with server({name: executable(name) for name in NAMES}, ServeOptions(max_client_batch=8)) as running:
        yield running


@pytest.fixture
def http(texts_server: Served) -> Iterator[httpx.Client]:
    """Asks the server of :data:`NAMES`."""
    with httpx.Client(base_url=f"http://{texts_server.http}", timeout=30) as client:
        yield client
