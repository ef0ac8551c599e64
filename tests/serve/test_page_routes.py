"""What the page at ``/`` holds and asks, without a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from models.bert import SIZES
from poprt.serve import page as page_module
from poprt.serve.live import precision
from poprt.serve.options import ServeOptions
from poprt.text import PackOptions, TextModel, pack
from tests.serve.page_server import page_app
from tests.serve.v2_models import arrays_model, text_model
from tests.text_folders import POSITIONS, embedding_folder

KEY = "a-key-of-the-tests"


def test_nothing_is_fetched_from_elsewhere_and_no_markup_is_made_of_texts() -> None:
    html = page_module._HTML.decode()
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(", html)
    assert not re.search(r"""\s(?:style|on\w+)=["']""", html)
    assert not re.search(r"localStorage|sessionStorage|document\.cookie|indexedDB", html)


def test_the_policy_allows_the_script_of_the_page_and_nothing_else() -> None:
    with TestClient(page_app({"vectors": text_model("embed")})) as client:
        answer = client.get("/", headers={"accept": "text/html"})
    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    script = re.search(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"


def test_what_models_are_is_told() -> None:
    options = ServeOptions(token_budget=128, max_client_batch=7)
    chosen = {"vectors": text_model("embed"), "moods": text_model("classify"), "arrays": arrays_model(packed=True)}
    with TestClient(page_app(chosen, options)) as client:
        server = client.get("/live/models").json()
    assert server["max_client_batch"] == 7
    vectors, moods, arrays = server["models"]
    assert (vectors["name"], vectors["task"], vectors["precision"]) == ("vectors", "embedding", "fp32")
    assert (vectors["max_length"], vectors["dimension"]) == (POSITIONS, SIZES["tiny"]["hidden"])
    assert vectors["token_budget"] == 128
    assert vectors["lanes"] >= 1
    assert moods["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert (arrays["task"], arrays["max_length"], arrays["labels"]) == (None, None, [])


def test_a_token_budget_that_the_runner_chose_is_told() -> None:
    with TestClient(page_app({"vectors": text_model("embed")})) as client:
        (about,) = client.get("/live/models").json()["models"]
    assert 0 < about["token_budget"] <= about["pack_tokens"]


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8"])
def test_the_precision_is_that_of_the_weights(name: str, tmp_path: Path) -> None:
    folder = embedding_folder(tmp_path / "model", "mean")
    pack(folder, tmp_path / "model.popef", PackOptions(precision=name, progress=False))
    with TextModel(tmp_path / "model.popef") as model:
        assert precision(model.runner.executable) == name


def test_figures_are_those_of_what_ran() -> None:
    with TestClient(page_app({"vectors": text_model("embed")})) as client:
        before = client.get("/live").json()["models"]["vectors"]
        assert (before["texts"], before["p50_ms"], before["last_packs"]) == (0, None, [])
        client.post("/embed", json={"inputs": ["why is my bread dense", "slow"]}).raise_for_status()
        client.post("/embed", json={"inputs": []})
        live = client.get("/live").json()
    after = live["models"]["vectors"]
    assert live["scope"] == "server"
    assert (after["requests"], after["texts"]) == (1, 2)
    assert 0 < after["p50_ms"] <= after["p99_ms"]
    packs = after["last_packs"]
    assert sum(len(item["tokens"]) for item in packs) == 2
    assert sum(map(sum, (item["tokens"] for item in packs))) == after["tokens"]
    assert all(len(item["waited_ms"]) == len(item["tokens"]) for item in packs)


def test_of_several_workers_the_figures_say_that_they_are_of_one() -> None:
    with TestClient(page_app({"vectors": text_model("embed")}, ServeOptions(workers=3))) as client:
        live = client.get("/live").json()
    assert (live["scope"], live["workers"]) == ("worker", 3)


def test_the_routes_of_the_page_are_documented_and_need_the_key() -> None:
    with TestClient(page_app({"vectors": text_model("embed")}, ServeOptions(api_key=KEY))) as client:
        assert [client.get(path).status_code for path in ("/live", "/live/models")] == [401, 401]
        headers = {"authorization": f"Bearer {KEY}"}
        paths = client.get("/openapi.json", headers=headers).json()["paths"]
        assert client.get("/live", headers=headers).status_code == 200
    for path in ("/live", "/live/models"):
        responses = paths[path]["get"]["responses"]
        assert "$ref" in responses["200"]["content"]["application/json"]["schema"]
        assert "401" in responses
    assert "text/html" in paths["/"]["get"]["responses"]["200"]["content"]
