"""Texts in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from poprt.errors import InputError
from poprt.runtime.request import Flow
from poprt.text.answering import Answer, Answerer, AnswerOptions, Window
from poprt.text.dimensions import check_dimensions, shortened
from poprt.text.facts import CLASSIFICATION, EMBEDDING, QUESTION_ANSWERING, RERANKING, TOKEN_CLASSIFICATION
from poprt.text.inputs import Text, as_list, check_pair, check_text, check_texts, chunks
from poprt.text.plan import Plan, run, run_async
from poprt.text.prompts import prompt_text
from poprt.text.runner import TextRunner
from poprt.text.scores import Floats, activate, check_top_k, labelled
from poprt.text.submission import Submission
from poprt.text.tagging import Entity, Tagger, check_strategy, without_overlaps
from poprt.text.tokens import Tokens

R = TypeVar("R")

#: Texts that are tokenised and handed to the runner at once, less than its queue holds.
CHUNK = 512
Scored = dict[str, Any]


class TextModel(TextRunner):
    """A text model: ``TextModel("model.popef").encode(["one text", "another"])``.

    Which methods answer depends on :attr:`task`. Each takes one text or a list of any length; ``aencode`` and the other
    methods with ``a`` do the same in an event loop. All may be called from many threads and tasks at once: their texts
    share runs.

    A text that is too long is cut at :attr:`max_length`, as sentence-transformers does. A text that is no string, or no
    text (half of a surrogate pair), is an InputError that tells its number, before anything runs.

    Close it, or use it in a ``with`` block.
    """

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Floats:
        """Embeddings, as sentence-transformers' ``encode`` gives them.

        Args:
            texts: one text, or any number of them.
            prompt_name: which of the model's prompts to put before each text; None takes its default one.
            prompt: the prompt itself.
            dimensions: to cut embeddings to this many values; the model must declare the size.
            show_progress_bar: None shows one on a terminal, where there are many texts.

        Returns:
            float32 [n, dimension], or [n, dimensions]; without n for one text.

        Raises:
            InputError: a text is none, or there is no such prompt or size.
            PoprtError: the model is for another task.
        """
        return self._run(self._embeddings(texts, prompt_name, prompt, dimensions), show_progress_bar)

    async def aencode(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
    ) -> Floats:
        """:meth:`encode` for an event loop."""
        return await self._arun(self._embeddings(texts, prompt_name, prompt, dimensions))

    def predict(
        self,
        texts: Any,
        *,
        top_k: int | None = 1,
        function_to_apply: str | None = None,
        show_progress_bar: bool | None = None,
    ) -> Any:
        """Labels with scores, as transformers' text-classification pipeline gives them.

        Args:
            texts: one text or a list. Two texts that belong together are a tuple, or a mapping with ``text`` and
                ``text_pair``.
            top_k: how many labels of a text, the likeliest first; None gives all.
            function_to_apply: "softmax", "sigmoid" or "none"; None takes the model's.
            show_progress_bar: as for :meth:`encode`.

        Returns:
            ``{"label": ..., "score": ...}`` for each text, with another ``top_k`` than 1 a list of these.
        """
        return self._run(self._predictions(texts, top_k, function_to_apply), show_progress_bar)

    async def apredict(self, texts: Any, *, top_k: int | None = 1, function_to_apply: str | None = None) -> Any:
        """:meth:`predict` for an event loop."""
        return await self._arun(self._predictions(texts, top_k, function_to_apply))

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        function_to_apply: str | None = None,
        show_progress_bar: bool | None = None,
    ) -> list[Scored]:
        """Documents by how well they answer a query, the best first, as sentence-transformers' cross-encoders do.

        Args:
            query: one text.
            documents: any number of texts.
            top_k: how many are returned; None returns all.
            return_documents: whether the texts are returned, too.
            function_to_apply: "sigmoid" or "none"; None takes the model's.
            show_progress_bar: as for :meth:`encode`.

        Returns:
            ``{"corpus_id": ..., "score": ...}`` for each document, with ``text`` where it is asked for.
        """
        return self._run(self._ranking(query, documents, top_k, return_documents, function_to_apply), show_progress_bar)

    async def arank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        function_to_apply: str | None = None,
    ) -> list[Scored]:
        """:meth:`rank` for an event loop."""
        return await self._arun(self._ranking(query, documents, top_k, return_documents, function_to_apply))

    def tag(
        self,
        texts: str | Sequence[str],
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
    ) -> Any:
        """Entities with their places, as transformers' token-classification pipeline gives them.

        Args:
            texts: one text or a list.
            aggregation_strategy: one of :data:`poprt.text.tagging.STRATEGIES`.
            ignore_labels: labels that are left out.
            stride: to read long texts whole, in parts that share so many tokens; None cuts them off.

        Returns:
            For each text a list of entities: ``entity`` or ``entity_group``, ``score``, ``word``, and the characters
            ``start`` and ``end``.
        """
        return self._run(self._tags(texts, aggregation_strategy, ignore_labels, stride), False)

    async def atag(
        self,
        texts: str | Sequence[str],
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
    ) -> Any:
        """:meth:`tag` for an event loop."""
        return await self._arun(self._tags(texts, aggregation_strategy, ignore_labels, stride))

    def answer(self, question: str, context: str, **options: Any) -> Any:
        """Where a context answers a question, as transformers' question-answering pipeline gives it.

        A context that is too long is read in windows that overlap.

        Args:
            question, context: one text each.
            options: fields of :class:`poprt.text.answering.AnswerOptions`: ``top_k``, ``max_answer_len``,
                ``doc_stride``, ``max_seq_len``, ``handle_impossible_answer``, ``align_to_words``.

        Returns:
            ``{"score": ..., "start": ..., "end": ..., "answer": ...}``; with another ``top_k`` than 1 a list of these.
        """
        return self._run(self._answers(question, context, options), False)

    async def aanswer(self, question: str, context: str, **options: Any) -> Any:
        """:meth:`answer` for an event loop."""
        return await self._arun(self._answers(question, context, options))

    def with_prompt(self, texts: Sequence[str], prompt_name: str | None = None, prompt: str | None = None) -> list[str]:
        """Texts with a prompt before each; raise InputError where there is no such prompt."""
        before = prompt_text(self.facts, prompt_name, prompt)
        return [before + text for text in texts] if before else list(texts)

    def _run(self, plan: Plan[R], show_progress: bool | None) -> R:
        return run(plan, show_progress)

    async def _arun(self, plan: Plan[R]) -> R:
        return await run_async(plan, self._pool)

    def _embeddings(
        self, texts: str | Sequence[str], prompt_name: str | None, prompt: str | None, dimensions: int | None
    ) -> Plan[Floats]:
        self._check_task(EMBEDDING)
        size = check_dimensions(self.facts, dimensions)
        single = isinstance(texts, str)
        checked = self.with_prompt(check_texts([texts] if single else texts, "text"), prompt_name, prompt)

        def read(vectors: Floats) -> Floats:
            rows = shortened(vectors, size, self.facts)
            return rows[0] if single else rows

        return self._rows(checked, read)

    def _predictions(self, texts: Any, top_k: int | None, function: str | None) -> Plan[Any]:
        self._check_task(CLASSIFICATION, RERANKING)
        check_top_k(top_k)
        single = isinstance(texts, (str, tuple, dict))
        items = [texts] if single else as_list(texts, "text")
        checked = [check_pair(item, f"text {number}") for number, item in enumerate(items)]
        name = function or self.facts.activation

        def read(logits: Floats) -> Any:
            results: list[Any] = [labelled(row, self.labels, top_k) for row in activate(logits, name)]
            results = [result[0] for result in results] if top_k == 1 else results
            return results[0] if single else results

        activate(np.zeros((0, 1), np.float32), name)  # now: nothing runs for a wrong one
        return self._rows(checked, read)

    def _ranking(
        self, query: str, documents: Sequence[str], top_k: int | None, with_texts: bool, function: str | None
    ) -> Plan[list[Scored]]:
        self._check_task(RERANKING)
        check_top_k(top_k)
        check_text(query, "query")
        texts = check_texts(documents, "document")
        name = function or self.facts.activation

        def read(logits: Floats) -> list[Scored]:
            scores = activate(logits, name)[:, 0]
            order = np.argsort(-scores, kind="stable")[:top_k]
            ranking: list[Scored] = [{"corpus_id": int(index), "score": float(scores[index])} for index in order]
            return [{**item, "text": texts[item["corpus_id"]]} for item in ranking] if with_texts else ranking

        activate(np.zeros((0, 1), np.float32), name)
        return self._rows([(query, text) for text in texts], read)

    def _rows(self, texts: Sequence[Text], read: Callable[[Floats], R]) -> Plan[R]:
        """A plan that fills one row a text; ``read`` makes the answer of float32 [n, values]."""
        output = self._outputs[0]
        rows: npt.NDArray[Any] = np.empty((len(texts), *output.shape[1:]), output.dtype)
        flow = Flow()  # of all steps: the next one begins where this one ends, and the call takes turns as one

        def step(start: int) -> Submission:
            tokens = self.tokenize(texts[start : start + CHUNK])
            buffers = [{output.name: rows[start + index]} for index in range(len(tokens))]
            return self.submit(tokens, buffers, first=start, flow=flow)

        steps = [partial(step, start) for start in range(0, len(texts), CHUNK)]
        return Plan(steps, lambda _: read(rows.astype(np.float32, copy=False)), len(texts))

    def _tags(
        self, texts: str | Sequence[str], strategy: str, ignore_labels: Collection[str], stride: int | None
    ) -> Plan[Any]:
        self._check_task(TOKEN_CLASSIFICATION)
        check_strategy(strategy, stride)
        single = isinstance(texts, str)
        checked = check_texts([texts] if single else texts, "text")
        tagger = Tagger(self.tokenizer, self.labels, self.facts.unk_token)
        name = self.facts.outputs[0]
        flow = Flow()
        counts: list[int] = []  # parts of each text

        def step(batch: Sequence[str]) -> Submission:
            parts = self._parts(batch, stride)
            counts.extend(map(len, parts))
            return self.submit([part for text_parts in parts for part in text_parts], flow=flow)

        def entities(text: str, parts: list[tuple[Tokens, Floats]]) -> list[Entity]:
            lists = [tagger.entities(text, *part, strategy, ignore_labels) for part in parts]
            return lists[0] if len(lists) == 1 else without_overlaps(list(chain.from_iterable(lists)))

        def read(submissions: list[Submission]) -> Any:
            pairs = [zip(done.tokens, done.buffers, strict=True) for done in submissions]
            answers = iter([(tokens, buffers[name]) for tokens, buffers in chain.from_iterable(pairs)])
            results = [
                entities(text, list(islice(answers, count))) for text, count in zip(checked, counts, strict=True)
            ]
            return results[0] if single else results

        return Plan([partial(step, part) for part in chunks(checked, CHUNK)], read, len(checked))

    def _parts(self, texts: Sequence[str], stride: int | None) -> list[list[Tokens]]:
        if stride is None:
            return [[tokens] for tokens in self.tokenize(texts, offsets=True)]
        return self.tokenizer.parts(texts, stride)

    def _answers(self, question: str, context: str, fields: dict[str, Any]) -> Plan[Any]:
        self._check_task(QUESTION_ANSWERING)
        options = _answer_options(fields)
        length, stride = options.window(self.max_length)
        for text, what in ((question, "question"), (context, "context")):
            if not check_text(text, what).strip():
                raise InputError(f"{what}: it is empty")
        answerer = Answerer(self.facts.question_first, self.tokenizer.id_of(self.facts.cls_token))
        start, end = self.facts.outputs

        def step() -> Submission:
            return self.submit(self.tokenizer.windows(question, context, length, stride))

        def read(submissions: list[Submission]) -> Any:
            windows = [
                Window(tokens, buffers[start], buffers[end])
                for done in submissions
                for tokens, buffers in zip(done.tokens, done.buffers, strict=True)
            ]
            answers: list[Answer] = answerer.answers(context, windows, options)
            return answers[0] if options.top_k == 1 and answers else answers

        return Plan([step], read, 1)


def _answer_options(fields: dict[str, Any]) -> AnswerOptions:
    try:
        return AnswerOptions(**fields)
    except TypeError as error:
        raise InputError(f"answer: {error}") from error
