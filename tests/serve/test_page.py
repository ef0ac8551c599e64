"""The page at ``/``, in headless Chromium, and what it asks."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx
import pytest

from models.bert import SIZES
from poprt.serve import page as page_module
from poprt.serve.options import ServeOptions
from poprt.text import PackOptions, TextModel, pack
from tests.serve.page_server import served
from tests.serve.v2_models import arrays_model, text_model
from tests.text_folders import POSITIONS, bert_folder

KEY = "a-key-of-the-tests"
#: As root, in a network that is closed: nothing is looked up or fetched in the background.
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: An answer has to come within these milliseconds.
SOON = 20_000


@cache
def reranker() -> Path:
    folder = Path(mkdtemp(prefix="poprt-page-")) / "rerank"
    bert_folder(folder, "sequence", "BertForSequenceClassification", labels=1)
    pack(folder, folder / "model.popef", PackOptions(progress=False))
    return folder / "model.popef"


def models() -> dict[str, Any]:
    return {
        "vectors": text_model("embed"),
        "moods": text_model("classify"),
        "order": reranker(),
        "names": text_model("tag"),
        "answers": text_model("ask"),
        "arrays": arrays_model(packed=True),
    }


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(models()) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on the PATH (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def pages(browser: Any) -> Iterator[Callable[..., Any]]:
    """Makes pages of a width."""
    contexts = []

    def new_page(width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(SOON)
        contexts.append(context)
        return context.new_page()

    yield new_page
    for context in contexts:
        context.close()


@pytest.fixture
def opened(pages: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Opens the page of an address; at the end the console may hold no error."""
    problems: list[str] = []

    def open_page(address: str, width: int = 1280, **options: Any) -> Any:
        page = pages(width, **options)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address + "/")
        page.locator("#state.on").wait_for()
        return page

    yield open_page
    assert problems == []


def choose(page: Any, name: str) -> Any:
    """The panel of a model."""
    page.get_by_role("tab", name=name, exact=True).click()
    return page.locator(".model:visible")


def tried(page: Any, name: str) -> Any:
    """The answer that the page shows when its button is pressed."""
    panel = choose(page, name)
    panel.locator("button.go").click()
    answer = panel.locator(".answer")
    answer.locator("> *").first.wait_for()
    assert answer.locator(".error").count() == 0, answer.inner_text()
    return answer


def figure(page: Any, name: str) -> Any:
    return page.locator(".model:visible").get_by_role("group", name=name)


def test_each_model_has_a_panel_that_says_what_it_is(opened: Any, url: str) -> None:
    page = opened(url)
    assert page.get_by_role("tab").all_inner_texts() == list(models())
    panel = choose(page, "moods")
    assert panel.locator("h2").inner_text() == "moods"
    facts = panel.locator(".facts").inner_text()
    assert f"{POSITIONS} tokens" in facts
    assert "LABEL_2" in facts
    assert f"{SIZES['tiny']['hidden']} numbers" in choose(page, "vectors").locator(".facts").inner_text()


def test_lines_are_ordered_by_how_near_they_are(opened: Any, url: str) -> None:
    page = opened(url)
    answer = tried(page, "vectors")
    lines = answer.locator("li").evaluate_all("rows => rows.map((row) => row.children[0].textContent)")
    cosines = [float(text) for text in answer.locator(".number").all_inner_texts()]
    text = page.locator(".model:visible textarea").first.input_value()
    with TextModel(text_model("embed")) as model:
        expected = model.encode(lines) @ model.encode(text)
    assert cosines == sorted(cosines, reverse=True)
    assert cosines == pytest.approx(expected.tolist(), abs=2e-3)


def test_labels_have_their_scores(opened: Any, url: str) -> None:
    answer = tried(opened(url), "moods")
    scores = [float(text) for text in answer.locator(".number").all_inner_texts()]
    assert len(scores) == 3
    assert sum(scores) == pytest.approx(1, abs=2e-3)
    assert scores == sorted(scores, reverse=True)


def test_lines_are_ranked(opened: Any, url: str) -> None:
    answer = tried(opened(url), "order")
    scores = [float(text) for text in answer.locator(".number").all_inner_texts()]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)


def test_words_are_marked_at_their_places_behind_characters_beyond_16_bits(opened: Any, url: str) -> None:
    page, text = opened(url), "\U0001f35e\U0001f35e anna bought <b>bread</b> in berlin"
    choose(page, "names").locator("textarea").fill(text)
    answer = tried(page, "names")
    marks = answer.locator("mark").evaluate_all("marks => marks.map((mark) => mark.firstChild.textContent)")
    with TextModel(text_model("tag")) as model:
        entities = model.tag(text, aggregation_strategy="simple")
    assert marks == [text[item["start"] : item["end"]] for item in entities]
    page.evaluate("document.querySelectorAll('.read small').forEach((label) => label.remove())")
    assert answer.locator(".read").text_content() == text


def test_an_answer_is_marked_in_its_context(opened: Any, url: str) -> None:
    page = opened(url)
    answer = tried(page, "answers")
    marked = answer.locator("mark").inner_text()
    assert marked
    assert answer.locator(".found").inner_text().startswith(marked)


def test_a_model_without_a_tokenizer_shows_a_line_that_works(opened: Any, url: str) -> None:
    panel = choose(opened(url), "arrays")
    assert "no tokenizer" in panel.inner_text()
    panel.locator("pre").wait_for()
    line = panel.locator("pre").inner_text()
    route, body = re.search(r"curl '(.*?)'.*-d '(.*)'$", line, re.DOTALL).groups()  # type: ignore[union-attr]
    assert route == f"{url}/v2/models/arrays/infer"
    answer = httpx.post(route, content=body)
    assert answer.status_code == 200, answer.text
    assert panel.locator("button.go").count() == 0


def test_the_line_for_curl_is_what_the_page_asks(opened: Any, url: str) -> None:
    page = opened(url)
    panel = choose(page, "moods")
    panel.locator("textarea").fill("it's slow")
    panel.locator("summary").click()
    line = panel.locator("details pre", has_text="curl").inner_text()  # waits: it is written when the summary opens
    assert line.startswith(f"curl '{url}/predict?model=moods'")
    assert r"it'\''s slow" in line


def test_a_refusal_is_shown_in_the_words_of_the_server(pages: Any, url: str) -> None:
    page = pages()
    page.goto(url + "/")
    page.locator("#state.on").wait_for()
    panel = choose(page, "moods")
    panel.locator("textarea").fill("bread " * 500)
    panel.locator("button.go").click()
    error = panel.locator(".answer .error")
    error.wait_for()
    assert re.match(rf"4\d\d: text 0 .* {POSITIONS}", error.inner_text())
    panel.locator("textarea").fill(" ")
    panel.locator("button.go").click()
    page.wait_for_function("document.querySelector('.model:not([hidden]) .answer').textContent.includes('empty')")


def test_figures_move_and_packs_appear_after_requests(opened: Any) -> None:
    with served({"vectors": text_model("embed")}) as url:
        page = opened(url)
        assert page.locator("#tabs").is_hidden()
        assert page.locator(".packs li").count() == 0
        assert "none in the last minute" in figure(page, "Time to answer").inner_text()
        httpx.post(f"{url}/embed", json={"inputs": ["slow", "why is my bread dense", "how"]}).raise_for_status()
        page.locator(".packs li[data-number]").first.wait_for()
        page.wait_for_function("document.querySelector('.figure .note').textContent.startsWith('3 ')")
        assert "p99" in figure(page, "Time to answer").inner_text()
        texts = page.locator(".packs li[data-number] .bar b[data-index]")
        assert texts.count() == 3
        widths = texts.evaluate_all("nodes => nodes.map((node) => Number(node.style.flexGrow))")
        live = httpx.get(f"{url}/live").json()["models"]["vectors"]
        newest_first = [length for item in live["last_packs"][::-1] for length in item["tokens"]]
        assert widths == newest_first


def test_a_pack_tells_who_shares_it_to_pointer_and_keyboard(opened: Any) -> None:
    with served({"vectors": text_model("embed")}) as url:
        for _ in range(2):
            httpx.post(f"{url}/embed", json={"inputs": ["slow train", "slow bread"]}).raise_for_status()
        page = opened(url)
        rows = page.locator(".packs li[data-number]")
        rows.first.wait_for()
        rows.first.locator("b[data-index]").first.hover()
        tip = page.get_by_role("tooltip")
        tip.wait_for()
        assert re.search(r"tokens\nwaited .* ms\n(shares its run with|runs alone)", tip.inner_text())
        rows.first.focus()
        first = rows.first.get_attribute("aria-label")
        page.keyboard.press("ArrowDown")
        focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert focused != first
        assert re.match(r"Pack \d+, lane \d+\. ", focused)
        assert tip.is_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_width_scrolls_sideways(opened: Any, url: str, width: int) -> None:
    page = opened(url, width)
    for name in models():
        panel = choose(page, name)
        if panel.locator("button.go").count():
            tried(page, name)
            panel.locator("summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_it_is_dark_where_the_system_is(opened: Any, url: str) -> None:
    script = "getComputedStyle(document.documentElement).backgroundColor"
    light, dark = (
        [int(part) for part in re.findall(r"\d+", opened(url, color_scheme=scheme).evaluate(script))]
        for scheme in ("light", "dark")
    )
    assert min(light) > 200
    assert max(dark) < 60


def test_the_key_is_asked_for_once_and_kept_in_the_page_alone(pages: Any) -> None:
    with served({"vectors": text_model("embed")}, ServeOptions(api_key=KEY)) as url:
        page = pages()
        # The document has no secrets; a browser cannot send a key for it.
        page.route(
            url + "/", lambda route: route.fulfill(body=page_module._HTML, headers={"content-type": "text/html"})
        )
        page.goto(url + "/")
        field = page.get_by_label("API key")
        field.fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("That is not the key.").wait_for()
        field.fill(KEY)
        page.keyboard.press("Enter")
        page.locator("#state.on").wait_for()
        page.get_by_role("button", name="Find the nearest").click()
        page.locator(".answer li").first.wait_for()
        page.locator("summary").click()
        assert KEY not in page.content()
        stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert stored == [0, 0, ""]


def test_the_page_says_that_the_server_is_gone_and_finds_it_again(pages: Any) -> None:
    with served({"vectors": text_model("embed")}) as url:
        page = pages()
        page.goto(url + "/")
        page.locator("#state.on").wait_for()
        gone = threading.Event()
        gone.set()
        page.route(url + "/live", lambda route: route.abort() if gone.is_set() else route.continue_())
        page.locator("#state.off").wait_for()
        gone.clear()
        page.locator("#state.on").wait_for()
