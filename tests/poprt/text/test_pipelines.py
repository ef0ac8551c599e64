"""The same answers as transformers' pipelines give with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from poprt.errors import InputError, PoprtError
from poprt.text import PackOptions, TextModel, pack

pytestmark = pytest.mark.export
torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[export]'")

TEXTS = [
    "Anna bought bread in New York.",
    "the company of James was sold, cancelled and (un)able to play",
    "x",
    "berlin berlin anna ☃ paris-ly",
    "",
]
CONTEXT = (
    "James was in Paris for a year. The company sold bread, and the bank of the river was old. Anna bought a red "
    "house with a light of stone; the train to Berlin was cancelled twice, which had not been the plan. "
) * 3
QUESTION = "who bought the house?"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """``models(maker, head, export, **config)`` -> the model of transformers, its tokenizer, and ours; made once."""
    from tests.poprt.text import exported_folders as folders

    made_models: dict[str, SimpleNamespace] = {}

    def make(family: str, head: str, export: str, **fields: Any) -> SimpleNamespace:
        key = f"{family}{head}{sorted(fields)}"
        if key not in made_models:
            model, tokenizer = getattr(folders, family)(head, **fields)
            folder = folders.save(tmp_path_factory.mktemp("folder"), model, tokenizer, export)
            packed = pack(folder, None, PackOptions(progress=False))
            loaded = transformers.AutoTokenizer.from_pretrained(str(folder))
            ours = TextModel(packed.executable)
            made_models[key] = SimpleNamespace(
                theirs=model, tokenizer=loaded, ours=ours, facts=packed.facts, folder=folder
            )
        return made_models[key]

    yield make
    for item in made_models.values():
        item.ours.close()


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


NER = labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def assert_alike(ours: Any, theirs: Any) -> None:
    """Equal but for the last digits of floats."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            assert_alike(ours[name], value)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for left, right in zip(ours, theirs, strict=True):
            assert_alike(left, right)
    elif isinstance(theirs, (float, np.floating)):
        assert ours == pytest.approx(float(theirs), abs=2e-5)
    else:
        assert ours == theirs


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_tags(family: str, strategy: str, models: Any) -> None:
    item = models(family, "ForTokenClassification", "token", **NER)
    pipeline = transformers.pipeline("token-classification", model=item.theirs, tokenizer=item.tokenizer)
    assert item.facts.task == "token-classification"
    expected = [pipeline(text, aggregation_strategy=strategy) for text in TEXTS]
    assert sum(map(len, expected)) > 10
    assert_alike(item.ours.tag(TEXTS, aggregation_strategy=strategy), expected)
    assert_alike(item.ours.tag(TEXTS[0], aggregation_strategy=strategy), expected[0])


def test_tags_of_a_text_that_is_truncated(models: Any) -> None:
    item = models("bert", "ForTokenClassification", "token", **NER)
    pipeline = transformers.pipeline("token-classification", model=item.theirs, tokenizer=item.tokenizer)
    assert_alike(item.ours.tag(CONTEXT, ignore_labels=()), pipeline(CONTEXT, ignore_labels=[]))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@pytest.mark.parametrize("stride", [0, 61])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_tags_of_a_text_that_is_read_in_parts(family: str, stride: int, strategy: str, models: Any) -> None:
    item = models(family, "ForTokenClassification", "token", **NER)
    options = {"aggregation_strategy": strategy, "stride": stride}
    pipeline = transformers.pipeline("token-classification", model=item.theirs, tokenizer=item.tokenizer, **options)
    texts = [CONTEXT, TEXTS[0], CONTEXT[50:]]
    expected = [pipeline(text) for text in texts]
    assert max(entity["end"] for entity in expected[0]) > len(CONTEXT) - 20
    assert_alike(item.ours.tag(texts, **options), expected)
    assert_alike(item.ours.tag(CONTEXT, **options), expected[0])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"stride": 8}, "stride needs another aggregation_strategy than 'none'"),
        ({"stride": -1, "aggregation_strategy": "simple"}, "stride is -1, expected 0 to 61"),
        ({"stride": 62, "aggregation_strategy": "simple"}, "stride is 62, expected 0 to 61"),
        ({"stride": 1.5, "aggregation_strategy": "simple"}, "stride is 1.5, expected a whole number"),
    ],
)
def test_a_stride_that_cannot_be_is_refused(options: dict[str, Any], complaint: str, models: Any) -> None:
    with pytest.raises(InputError, match=complaint):
        models("bert", "ForTokenClassification", "token", **NER).ours.tag("x", **options)


def test_a_strategy_that_is_none_is_refused(models: Any) -> None:
    with pytest.raises(InputError, match="aggregation_strategy is 'last', expected one of none, simple"):
        models("bert", "ForTokenClassification", "token", **NER).ours.tag("x", aggregation_strategy="last")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3},
        {"max_seq_len": 40, "doc_stride": 12, "top_k": 4},
        {"max_seq_len": 40, "doc_stride": 0, "max_answer_len": 3},
        {"handle_impossible_answer": True, "top_k": 5},
        {"align_to_words": False, "top_k": 2},
    ],
)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_answers(family: str, options: dict[str, Any], models: Any) -> None:
    item = models(family, "ForQuestionAnswering", "qa")
    pipeline = transformers.pipeline("question-answering", model=item.theirs, tokenizer=item.tokenizer)
    assert item.facts.task == "question-answering"
    for context in (CONTEXT, "Anna."):
        expected = pipeline(question=QUESTION, context=context, **options)
        answers = item.ours.answer(QUESTION, context, **options)
        assert_alike(answers, expected if options.get("top_k", 1) == 1 or isinstance(expected, list) else [expected])


def test_a_context_that_fits_beside_a_long_question(models: Any) -> None:
    item = models("bert", "ForQuestionAnswering", "qa")
    pipeline = transformers.pipeline("question-answering", model=item.theirs, tokenizer=item.tokenizer)
    question = "who " * 45
    assert_alike(item.ours.answer(question, "Anna."), pipeline(question=question, context="Anna."))


@pytest.mark.parametrize(
    ("question", "context", "options", "complaint"),
    [
        ("who " * 70, "Anna.", {}, "the question has .* tokens, which leaves 0 of 64 for a context"),
        ("who?", " ", {}, "context: it is empty"),
        ("who?", "Anna.", {"max_seq_len": 65}, "max_seq_len is 65, the model takes 64"),
        ("who?", "Anna.", {"doc_stride": 64}, "doc_stride is 64, expected less than max_seq_len, which is 64"),
        ("who?", "Anna.", {"top_k": 0}, "top_k is 0, expected a whole number of 1 or more"),
        ("who?", "Anna.", {"stride": 3}, "answer: .*stride"),
    ],
)
def test_questions_that_have_no_answer(
    question: str, context: str, options: dict[str, Any], complaint: str, models: Any
) -> None:
    with pytest.raises(InputError, match=complaint):
        models("bert", "ForQuestionAnswering", "qa").ours.answer(question, context, **options)


PAIRS = [("the bank", "the old river"), ("who", "anna")]


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_labels(problem: str, models: Any) -> None:
    item = models("roberta", "ForSequenceClassification", "sequence", num_labels=3)
    item.theirs.config.problem_type = problem
    function = {"multi_label_classification": "sigmoid", "regression": "none"}.get(problem)
    pipeline = transformers.pipeline("text-classification", model=item.theirs, tokenizer=item.tokenizer)
    assert item.facts.task == "sequence-classification"
    assert_alike(item.ours.predict(TEXTS, function_to_apply=function), pipeline(TEXTS))
    assert_alike(item.ours.predict(TEXTS, top_k=None, function_to_apply=function), pipeline(TEXTS, top_k=None))
    expected = [pipeline({"text": first, "text_pair": second}) for first, second in PAIRS]
    assert_alike(item.ours.predict(PAIRS, function_to_apply=function), expected)
    assert_alike(item.ours.predict({"text": "who", "text_pair": "anna"}, function_to_apply=function), expected[1])
    assert item.ours.predict([]) == []


def test_ranking(models: Any) -> None:
    item = models("bert", "ForSequenceClassification", "sequence", num_labels=1)
    assert item.facts.task == "reranking"
    documents = [*TEXTS[:4], CONTEXT]
    encoded = item.tokenizer(
        [QUESTION] * 5, [text.strip() for text in documents], padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        scores = item.theirs(**encoded).logits.sigmoid()[:, 0].numpy()
    order = np.argsort(-scores)
    ranking = item.ours.rank(QUESTION, documents)
    assert_alike(ranking, [{"corpus_id": int(index), "score": float(scores[index])} for index in order])
    top = item.ours.rank(QUESTION, documents, top_k=2, return_documents=True)
    assert [entry["text"] for entry in top] == [documents[index] for index in order[:2]]
    assert item.ours.rank(QUESTION, []) == []
    with pytest.raises(PoprtError, match="the model is for reranking; this needs one for embedding"):
        item.ours.encode("x")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_embeddings(family: str, models: Any, tmp_path: Path) -> None:
    from tests.poprt.text import exported_folders as folders
    from tests.text_folders import write_pooling

    model, tokenizer = getattr(folders, family)("Model")
    folder = folders.save(tmp_path / "folder", model, tokenizer, "hidden")
    write_pooling(folder, "mean", normalise=True)
    texts = [*TEXTS, CONTEXT]
    encoded = tokenizer([text.strip() for text in texts], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**encoded).last_hidden_state, encoded["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        expected = torch.nn.functional.normalize(mean, dim=1).numpy()
    with TextModel(pack(folder, None, PackOptions(progress=False)).executable) as ours:
        np.testing.assert_allclose(ours.encode(texts), expected, atol=2e-5)


def test_the_peer_gives_the_same_embeddings_and_ranking(models: Any, tmp_path: Path) -> None:
    peer = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from tests.poprt.text import exported_folders as folders
    from tests.text_folders import FLAGS, write_pooling

    folder = folders.save(tmp_path / "folder", *folders.bert("Model"), "hidden")
    texts = [*TEXTS, CONTEXT, "  blanks  "]
    for ways in (["mean"], ["cls", "max"], sorted(FLAGS)):
        write_pooling(folder, *ways, normalise=len(ways) == 1)
        with TextModel(pack(folder, None, PackOptions(progress=False)).executable) as ours:
            expected = peer.SentenceTransformer(str(folder), device="cpu").encode(texts)
            np.testing.assert_allclose(ours.encode(texts), expected, atol=1e-4)
    item = models("bert", "ForSequenceClassification", "sequence", num_labels=1)
    encoder = peer.CrossEncoder(str(item.folder), device="cpu")
    for ours_first, theirs in zip(item.ours.rank(QUESTION, texts), encoder.rank(QUESTION, texts), strict=True):
        assert_alike(ours_first, {**theirs, "corpus_id": int(theirs["corpus_id"])})
