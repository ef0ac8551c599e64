"""The models of a server, by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.errors import PoprtError, RunnerClosedError
from poprt.executable import Executable
from poprt.runtime import PackRunnerConfig, Runner, RuntimeConfig
from poprt.runtime.runner import load
from poprt.serve.calls import Call
from poprt.serve.errors import Internal, NotFound, TooLong, WrongTask
from poprt.serve.metering import Metrics, NoMetrics
from poprt.serve.options import ServeOptions
from poprt.serve.tensors import run_arrays
from poprt.text.inputs import Text, characters
from poprt.text.model import TextModel
from poprt.text.plan import scheduled, submitted
from poprt.text.runner import TOKENIZER_THREADS
from poprt.text.submission import Submission
from poprt.text.tokens import CHARACTERS_A_TOKEN, Tokens

Array = npt.NDArray[Any]
Source = str | Path | Executable | TextModel

#: Characters of a request up to which it is tokenised on the event loop: some 0.2 ms, and a thread takes 0.1 ms to ask.
INLINE_CHARACTERS = 500


class ServedModel:
    """An executable with its runner, as a server answers with it.

    Args:
        name: what clients call it.
        source: the path of an executable, an ``Executable``, or a ``TextModel``, which keeps its own options and is
            left open.
        options: the server's.
        metrics: what is told of packs and of texts that are taken back.

    Attributes:
        version: the only one.
        path: where the executable was read from; "" where it was not read from a file.
        executable: the executable.
        text: answers texts; None where the executable has no tokenizer and takes tensors alone.
        runner: runs it.
        tokenizer_threads: how many tokenise.

    Raises:
        PoprtError: it cannot be loaded; the message names the model.
    """

    version = "1"

    def __init__(self, name: str, source: Source, options: ServeOptions, metrics: Metrics | None = None) -> None:
        self.name = name
        self.path = str(source) if isinstance(source, (str, Path)) else ""
        self._metrics: Metrics = metrics or NoMetrics()
        self._owned = not isinstance(source, TextModel)
        try:
            self.text, self.runner = _opened(source, options, self._metrics.pack_observer(name))
        except PoprtError as error:
            raise type(error)(f"model {name!r}: {error}") from error
        except OSError as error:
            raise PoprtError(f"model {name!r}: {self.path!r} cannot be read: {error.strerror}") from error
        self.executable: Executable = self.runner.executable
        self.tokenizer_threads = options.tokenizer_threads or TOKENIZER_THREADS
        self._pool = ThreadPoolExecutor(self.tokenizer_threads, "poprt-serve-tokenizer")
        self._most_windows = options.max_queue_requests
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether it answers: no lane died, and it was not closed."""
        return not self._closed and self.runner.failure is None

    def text_model(self, *tasks: str) -> TextModel:
        """The model for texts; raise WrongTask where it has no tokenizer, or is for another task than these."""
        if self.text is None:
            raise WrongTask(
                f"model {self.name!r} has no tokenizer: send tensors to /v2/models/{self.name}/infer", "model"
            )
        if tasks and self.text.task not in tasks:
            raise WrongTask(
                f"model {self.name!r} is for {self.text.task}, this needs one for {' or '.join(tasks)}", "model"
            )
        return self.text

    async def texts(
        self,
        texts: Sequence[Text],
        call: Call,
        *,
        truncate: bool,
        offsets: bool = False,
        outputs: Sequence[str] | None = None,
    ) -> Submission:
        """Tokenise texts and run them, all or none. A task that is cancelled takes them out of the queue.

        Args:
            texts: texts or pairs.
            call: whose they are; it learns what they cost.
            truncate: whether texts that are too long are cut.
            offsets: whether the places of tokens in the text are needed.
            outputs: names of the outputs to fill; None takes those of the task.

        Returns:
            The answered submission: ``tokens``, and ``buffers`` with the outputs of each text.

        Raises:
            TooLong: a text has too many tokens; the message has its number.
            QueueFullError: the queue has no room for all of them.
            RunnerClosedError: the model was closed.
            Internal: an output holds NaN or an infinity.
        """
        text = self.text_model()
        if not truncate:
            _check_characters(texts, text.max_length)

        def tokenize() -> list[Tokens]:
            tokens = text.tokenize(texts, offsets=offsets)
            if not truncate:
                _check_lengths(tokens, text.max_length)
            return tokens

        call.texts = len(texts)
        return await self._answered(tokenize, characters(texts), call, outputs)

    async def windows(self, question: str, context: str, length: int, stride: int, call: Call) -> Submission:
        """A question with each part of its context, run all or none; see :meth:`texts`."""
        text = self.text_model()
        call.texts = 1

        def tokenize() -> list[Tokens]:
            return text.tokenizer.windows(question, context, length, stride, self._most_windows)

        return await self._answered(tokenize, len(question) + len(context), call, None)

    async def in_pool(self, function: Callable[[], Any], characters: int) -> Any:
        """The result of work on so many characters, done in a thread where it would hold up the event loop."""
        if characters <= INLINE_CHARACTERS:
            return function()
        try:
            work = asyncio.get_running_loop().run_in_executor(self._pool, function)
        except RuntimeError as error:
            raise RunnerClosedError("the model is closed") from error
        return await work

    async def tensors(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None, call: Call) -> dict[str, Array]:
        """Run arrays, all rows or none; see :func:`poprt.serve.tensors.run_arrays`."""
        started = time.perf_counter()
        try:
            results, queued = await run_arrays(self.runner, inputs, outputs)
        except asyncio.CancelledError:
            self._metrics.cancelled(self.name, call.texts)
            raise
        call.queue_seconds += queued
        call.inference_seconds += max(0.0, time.perf_counter() - started - queued)
        return results

    def close(self, cancel: bool = False) -> None:
        """Take no more requests. Those that wait are answered or, with ``cancel``, fail. Blocks until then."""
        self._closed = True
        if self._owned:
            (self.text or self.runner).close(cancel)
        self._pool.shutdown(wait=False)

    async def _answered(
        self, tokenize: Callable[[], list[Tokens]], characters: int, call: Call, outputs: Sequence[str] | None
    ) -> Submission:
        text = self.text_model()
        started = time.perf_counter()

        def step() -> Submission:
            tokens = tokenize()
            call.tokenization_seconds += time.perf_counter() - started
            call.input_tokens += sum(map(len, tokens))
            buffers = None if outputs is None else [text.room(len(item), outputs) for item in tokens]
            return text.submit(tokens, buffers, block=False)

        inline = characters <= INLINE_CHARACTERS
        submission = step() if inline else await submitted(scheduled(self._pool, step))
        try:
            await asyncio.wrap_future(submission.done)
        except asyncio.CancelledError:
            self._metrics.cancelled(self.name, len(submission.tokens))
            raise
        call.queue_seconds += submission.queue_seconds
        call.inference_seconds += max(0.0, time.perf_counter() - submission.sent - submission.queue_seconds)
        _check_finite(submission)
        return submission


class Models(Mapping[str, ServedModel]):
    """The models of a server; the first one is the default.

    Args:
        models: at least one.

    Raises:
        PoprtError: there is none.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        if not models:
            raise PoprtError("models: expected at least one, as {'name': 'model.popef'}")
        self._models = dict(models)

    @classmethod
    def load(cls, sources: Mapping[str, Source], options: ServeOptions, metrics: Metrics | None = None) -> Models:
        """Open models by name. Where one cannot be opened, those before it are closed, and its error is raised."""
        models: dict[str, ServedModel] = {}
        try:
            for name, source in sources.items():
                models[name] = ServedModel(name, source, options, metrics)
        except BaseException:
            for model in models.values():
                model.close(cancel=True)
            raise
        return cls(models)

    def __getitem__(self, name: str) -> ServedModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    @property
    def default(self) -> ServedModel:
        """The model of requests that name none."""
        return next(iter(self._models.values()))

    def find(self, name: str | None) -> ServedModel:
        """The model of a name, the default one for None; raise NotFound, which lists the names."""
        if name is None:
            return self.default
        model = self._models.get(name)
        if model is None:
            raise NotFound(f"there is no model {name[:100]!r}; the models are {', '.join(map(repr, self))}", "model")
        return model

    def close(self, cancel: bool = False) -> None:
        """Close all; see :meth:`ServedModel.close`."""
        for model in self._models.values():
            model.close(cancel)


def _opened(source: Source, options: ServeOptions, observer: Any) -> tuple[TextModel | None, Runner]:
    if isinstance(source, TextModel):
        return source, source.runner
    executable = load(source)
    if executable.models:
        raise PoprtError(
            f"the executable holds {len(executable.models)} models, and a name of the server is one: save each, as "
            "executable.models[0].save('first.popef'), and serve the files"
        )
    # The cores are the event loop's too, and often those of other services.
    engine: dict[str, Any] = {"spin_between_runs": False}
    if options.threads is not None:
        engine["threads"] = options.threads
    if executable.packing is None:
        return None, Runner(executable, _rows_config(executable, options, observer), **engine)
    config = PackRunnerConfig(
        queue_limit=options.max_queue_requests,
        queue_tokens=options.max_queue_tokens,
        lanes=options.lanes,
        token_budget=options.token_budget,
        engine=options.engine,
        typical_lengths=options.typical_lengths,
        observer=observer,
    )
    if not executable.texts:
        return None, Runner(executable, config, **engine)
    text = TextModel(executable, config, **engine)
    return text, text.runner


def _rows_config(executable: Executable, options: ServeOptions, observer: Any) -> RuntimeConfig:
    """Of an executable that is not packed: as many rows may wait as texts of another."""
    axes = [executable.manifest.batch_axes.get(spec.name) for spec in executable.inputs]
    return RuntimeConfig(
        batching_dim=next((axis for axis in axes if axis is not None), None),
        ring_buffer_size_multiplier=-(-options.max_queue_requests // 1024),
        queue_tokens=options.max_queue_requests,
        engine=options.engine,
        observer=observer,
    )


def _check_characters(texts: Sequence[Text], limit: int) -> None:
    """Raise TooLong for a text of which the tokenizer would read the beginning alone."""
    most = CHARACTERS_A_TOKEN * limit
    for number, text in enumerate(texts):
        for part in (text,) if isinstance(text, str) else text:
            if len(part) > most and len(part.strip()) > most:
                raise TooLong(
                    f"text {number} has {len(part)} characters, which is too long for the {limit} tokens that the "
                    "model takes: shorten it, or ask for it to be cut (truncate)"
                )


def _check_lengths(tokens: Sequence[Tokens], limit: int) -> None:
    for number, item in enumerate(tokens):
        if item.truncated:
            raise TooLong(
                f"text {number} has {item.count} tokens, the model takes {limit}: shorten it, or ask for it to be "
                "cut (truncate)"
            )


def _check_finite(submission: Submission) -> None:
    """Raise Internal where an output holds what JSON cannot say."""
    for name in submission.buffers[0] if submission.buffers else ():
        values = np.concatenate([buffers[name].reshape(-1) for buffers in submission.buffers])
        if not np.isfinite(values).all():
            raise Internal(f"output {name!r} holds NaN or an infinity: the model's weights or precision are at fault")
