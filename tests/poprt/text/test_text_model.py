"""One model, many callers: any number of texts, odd texts, threads, event loops, and the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from poprt.errors import InputError, PoprtError, RunnerClosedError
from poprt.executable import Executable
from poprt.runtime import PackRunnerConfig
from poprt.text import TextModel
from poprt.text.tokens import CHARACTERS_A_TOKEN
from tests.text_folders import HIDDEN, POSITIONS, WORDS, outputs_of, pooled


def random_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[:40], size=length)) for length in rng.integers(1, 30, size=count)]


def test_texts_come_back_in_order_and_beyond_the_length_of_the_queue(embedder_path: Path, embedder: TextModel) -> None:
    texts = random_texts(1500)
    config = PackRunnerConfig(queue_limit=64, token_budget=512)
    with TextModel(embedder_path, config) as model:
        vectors = model.encode(texts)
    assert (vectors.shape, vectors.dtype) == ((1500, HIDDEN), np.float32)
    for number in (0, 700, 1499):
        np.testing.assert_allclose(vectors[number], embedder.encode(texts[number]), atol=2e-5)


def test_one_text_gives_a_vector_and_none_gives_no_rows(embedder: TextModel) -> None:
    assert embedder.encode("the bank").shape == (HIDDEN,)
    assert embedder.encode([]).shape == (0, HIDDEN)
    assert embedder.encode(iter(["the bank"])).shape == (1, HIDDEN)  # type: ignore[arg-type]


def test_an_empty_text_is_its_frame_and_blanks_around_a_text_go(embedder: TextModel, embedder_folder: Path) -> None:
    expected = pooled(outputs_of(embedder_folder, "")["last_hidden_state"], "mean")
    np.testing.assert_allclose(embedder.encode(""), expected, atol=2e-5)
    np.testing.assert_array_equal(embedder.encode(" \n the bank "), embedder.encode("the bank"))


def test_a_long_text_is_truncated_and_its_tokens_are_counted(embedder: TextModel, embedder_folder: Path) -> None:
    text = "the old bank " * 100
    (tokens,) = embedder.tokenize([text])
    assert (len(tokens), tokens.count, tokens.truncated) == (POSITIONS, 302, True)
    expected = pooled(outputs_of(embedder_folder, text)["last_hidden_state"], "mean")
    np.testing.assert_allclose(embedder.encode(text), expected, atol=2e-5)


def test_a_pair_that_is_truncated_is_counted_whole(embedder: TextModel) -> None:
    (tokens,) = embedder.tokenize([("the " * 50, "bank " * 70)])
    assert (len(tokens), tokens.count) == (POSITIONS, 123)


def test_a_huge_text_is_cut_before_it_is_tokenised(embedder: TextModel) -> None:
    text = "the bank of " * 170_000
    (tokens,) = embedder.tokenize([text])
    assert tokens.truncated
    assert tokens.count < CHARACTERS_A_TOKEN * POSITIONS  # the rest was never looked at
    np.testing.assert_array_equal(embedder.encode(text), embedder.encode(text[:1000]))


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["fine", "half \ud83d"], r"text 1: U\+D83D at character 5 is half of a surrogate pair"),
        (["fine", 3], "text 1: expected a string, got int"),
        (["fine", None], "text 1: expected a string, got NoneType"),
        (b"bytes", "texts: expected a list of strings, got bytes"),
        (3, "texts: expected a list of strings, got int"),
    ],
)
def test_what_is_no_text_is_named_before_anything_runs(texts: object, complaint: str, embedder: TextModel) -> None:
    before = embedder.runner.stats().samples
    with pytest.raises(InputError, match=complaint):
        embedder.encode(texts)  # type: ignore[arg-type]
    assert embedder.runner.stats().samples == before


def test_whole_surrogate_pairs_and_odd_characters_are_texts(embedder: TextModel) -> None:
    assert np.isfinite(embedder.encode(["\U0001f600", "\x00", "‮", "e" + "́" * 500, "�"])).all()


def test_prompts_stand_before_the_text(embedder: TextModel) -> None:
    assert embedder.prompts == {"query": "how my ", "plain": ""}
    expected = embedder.encode("how my bread is dense")
    np.testing.assert_array_equal(embedder.encode("bread is dense", prompt_name="query"), expected)
    np.testing.assert_array_equal(embedder.encode("bread is dense", prompt="how my "), expected)
    with pytest.raises(InputError, match="prompt_name is 'passage', the model's prompts are 'plain', 'query'"):
        embedder.encode("bread", prompt_name="passage")


def test_a_model_says_what_a_server_needs(embedder: TextModel) -> None:
    assert (embedder.task, embedder.max_length, embedder.dimension) == ("embedding", POSITIONS, HIDDEN)
    assert (embedder.labels, embedder.facts.pooling, embedder.facts.similarity) == ((), "mean", "cosine")
    (tokens,) = embedder.tokenize(["the bank"], offsets=True)
    assert tokens.encoding.offsets == [(0, 0), (0, 3), (4, 8), (0, 0)]
    assert embedder.tokenizer.decode(tokens.ids.tolist()) == "the bank"
    assert len(embedder.tokenize(["the bank"], add_special_tokens=False)[0]) == 2


def test_another_task_is_refused_by_name(embedder: TextModel) -> None:
    for call in (embedder.predict, embedder.tag):
        with pytest.raises(PoprtError, match="the model is for embedding; this needs one for"):
            call(["x"])


def test_many_threads_share_one_model(embedder: TextModel) -> None:
    batches = [random_texts(20, seed) for seed in range(16)]
    alone = [embedder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for vectors, expected in zip(pool.map(embedder.encode, batches), alone, strict=True):
            np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_many_tasks_of_an_event_loop_share_one_model(embedder: TextModel) -> None:
    texts = random_texts(600)
    alone = embedder.encode(texts)

    async def gather() -> list[np.ndarray]:
        singles = [embedder.aencode(text) for text in texts[:40]]
        return await asyncio.gather(*singles, embedder.aencode(texts), embedder.aencode([]))

    *singles, many, none = asyncio.run(gather())
    np.testing.assert_allclose(singles, alone[:40], atol=2e-5)
    np.testing.assert_allclose(many, alone, atol=2e-5)
    assert none.shape == (0, HIDDEN)


def test_a_task_that_is_cancelled_takes_its_texts_out_of_the_queue(embedder_path: Path) -> None:
    config = PackRunnerConfig(token_budget=256, lanes=1, timeout_microseconds=60_000_000, send_when_idle=False)
    with TextModel(embedder_path, config) as model:  # nothing runs before a pack is full

        async def cancel() -> None:
            task = asyncio.create_task(model.aencode(["the bank"] * 3))
            while model.runner.pending().requests < 3:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        model.close(cancel=True)
        assert model.runner.stats().samples == 0


def test_a_text_that_the_model_refuses_fails_its_call_alone(embedder: TextModel) -> None:
    tokens = embedder.tokenize(["the bank", "my bread"])
    tokens[1].ids[1] = 10**6
    submission = embedder.submit(tokens)
    with pytest.raises(InputError, match="1000000 in place 1 is no row of the model's table"):
        submission.wait()
    assert embedder.encode("the bank").shape == (HIDDEN,)


def test_a_submission_can_be_waited_for_by_a_callback(embedder: TextModel) -> None:
    answered = threading.Event()
    submission = embedder.submit(embedder.tokenize(["the bank", "bread"]))
    submission.done.add_done_callback(lambda _: answered.set())
    assert answered.wait(60)
    vectors = [buffers["sentence_embedding"] for buffers in submission.buffers]
    np.testing.assert_allclose(vectors, embedder.encode(["the bank", "bread"]), atol=2e-5)


def test_a_closed_model_refuses_and_one_that_is_cancelled_drops(embedder_path: Path) -> None:
    config = PackRunnerConfig(token_budget=256, lanes=1, timeout_microseconds=60_000_000, send_when_idle=False)
    model = TextModel(embedder_path, config)
    submission = model.submit(model.tokenize(["the bank"]))
    model.close(cancel=True)
    with pytest.raises((RunnerClosedError, CancelledError)):
        submission.wait()
    with pytest.raises(RunnerClosedError):
        model.encode("the bank")
    with pytest.raises(RunnerClosedError):
        asyncio.run(model.aencode("the bank"))


def test_an_executable_without_a_tokenizer_says_how_to_get_one(embedder_path: Path, tmp_path: Path) -> None:
    whole = Executable(embedder_path)
    plain = Executable.build(
        whole.manifest, whole.graph, {s.name: whole.weight(s.name) for s in whole.manifest.weights}
    )
    plain.save(tmp_path / "plain.popef")
    with pytest.raises(PoprtError, match=r"plain.popef has no tokenizer: make it of a model's folder with `poprt pack"):
        TextModel(tmp_path / "plain.popef")


def test_without_the_library_the_error_says_what_to_install(
    embedder_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PoprtError, match=r"tokenizers is not installed: pip install 'poprt\[text\]'"):
        TextModel(embedder_path)


def test_serving_texts_loads_no_onnx(embedder_path: Path) -> None:
    code = (
        "import sys\nfrom poprt.text import TextModel\n"
        f"with TextModel({str(embedder_path)!r}) as model: model.encode(['the bank'])\n"
        "print(sorted({'onnx', 'onnx_graphsurgeon', 'passes', 'sympy'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_progress_is_shown_where_it_is_asked_for(embedder: TextModel, capsys: pytest.CaptureFixture[str]) -> None:
    embedder.encode(["the bank"] * 3)
    assert capsys.readouterr().err == ""
    embedder.encode(["the bank"] * 3, show_progress_bar=True)
    assert "texts" in capsys.readouterr().err
