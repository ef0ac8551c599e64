"""Model names with slashes, HEAD, and nulls, as clients and load balancers send them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from poprt.serve.metrics import Metrics
from poprt.serve.options import ServeOptions
from tests.serve.text_models import executable
from tests.serve.v2_models import Served, server

NAME = "org/team/minilm"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with server({NAME: executable("plain")}, ServeOptions()) as running:
        yield running


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{served.http}", timeout=30) as client:
        yield client


@pytest.mark.parametrize("name", [NAME, NAME.replace("/", "%2F")])
def test_a_name_with_slashes_is_a_name_on_every_route(http: httpx.Client, name: str) -> None:
    assert http.get(f"/v1/models/{name}").json()["id"] == NAME
    assert http.get(f"/v2/models/{name}").json()["name"] == NAME
    for path in ("", "/ready", "/config", "/stats", "/versions/1", "/versions/1/ready", "/versions/1/config"):
        answer = http.get(f"/v2/models/{name}{path}")
        assert answer.status_code == 200, (path, answer.text)
    for path in ("/versions/7", "/versions/7/ready", "/nothing", "/ready/nothing"):
        assert http.get(f"/v2/models/{name}{path}").status_code == 404, path
    refused = http.post(f"/v2/repository/models/{name}/load", json={})
    assert refused.status_code == 400
    assert "not loaded later" in refused.json()["error"]


def test_tritons_client_asks_a_model_with_slashes_in_its_name(served: Served) -> None:
    module = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    client = module.InferenceServerClient(served.http)
    assert client.is_model_ready(NAME)
    assert client.get_model_metadata(NAME)["name"] == NAME
    client.close()


def test_the_metrics_have_one_endpoint_whatever_the_name(http: httpx.Client) -> None:
    http.get(f"/v2/models/{NAME}/ready")
    text = http.get("/metrics").text
    assert 'endpoint="/v2/models/{name}/ready"' in text
    assert ":path" not in text


@pytest.mark.parametrize("path", ["/health", "/v2/health/live", "/v2/health/ready", "/metrics", "/v1/models", "/"])
def test_head_is_answered_as_get_without_the_body(http: httpx.Client, path: str) -> None:
    got, head = http.get(path), http.head(path)
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]


def test_head_of_what_only_takes_post_is_refused(http: httpx.Client) -> None:
    assert http.head("/v1/embeddings").status_code == 405


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": "anna", "encoding_format": None, "dimensions": None, "user": None, "model": None}),
        ("/embed", {"inputs": "anna", "truncate": None, "normalize": None, "prompt_name": None}),
        ("/tokenize", {"inputs": "anna", "add_special_tokens": None}),
    ],
)
def test_null_is_as_good_as_left_out(http: httpx.Client, path: str, fields: dict[str, object]) -> None:
    answer = http.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    assert answer.json() == http.post(path, json={k: v for k, v in fields.items() if v is not None}).json()


def test_metrics_that_fail_are_an_error_of_the_server(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Metrics, accept: str = "") -> None:
        raise RuntimeError("no registry")

    monkeypatch.setattr(Metrics, "exposition", fail)
    answer = http.get("/metrics")
    assert answer.status_code == 500
    assert "log" in answer.json()["error"]
