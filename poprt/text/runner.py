"""An executable with its tokenizer and its runner: what every task of a text model rests on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from poprt.errors import ExecutableError, InputError, PoprtError
from poprt.executable import TEXT, TOKENIZER, Executable, PackingSpec
from poprt.runtime.config import PackRunnerConfig
from poprt.runtime.pack_runner import PackRunner
from poprt.runtime.request import Flow
from poprt.runtime.runner import load
from poprt.text.facts import TextFacts, read_facts
from poprt.text.inputs import Text
from poprt.text.submission import Submission
from poprt.text.tokens import TextTokenizer, Tokens

if TYPE_CHECKING:
    from typing import Self

Array = npt.NDArray[Any]

#: Threads that tokenise for an event loop. The library uses all cores by itself where it gets several texts.
TOKENIZER_THREADS = 2


class TextRunner:
    """Tokenises texts and runs them. Every method may be called from any thread.

    Args:
        executable: what ``poprt pack`` wrote, or the path of it.
        config: options of the pack runner; None takes the defaults.
        options: ``session``, ``threads``, ``providers`` and ``spin_between_runs``, as for ``poprt.runtime.Runner``.

    Attributes:
        facts: task, labels, prompts and limits.
        tokenizer: turns texts into tokens, without running them.
        runner: the pack runner.

    Raises:
        PoprtError: the executable has no tokenizer, or the library that reads it is not installed.
        ExecutableError: it cannot be loaded.
    """

    def __init__(
        self, executable: Executable | str | Path, config: PackRunnerConfig | None = None, **options: Any
    ) -> None:
        loaded = load(executable)
        label = str(executable) if isinstance(executable, (str, Path)) else "the executable"
        texts, packing = loaded.texts, loaded.packing
        if not texts or packing is None:
            raise PoprtError(f"{label} has no tokenizer: make it of a model's folder with `poprt pack FOLDER -o FILE`")
        try:
            self.facts: TextFacts = read_facts(texts[TEXT], loaded.manifest)
        except ExecutableError as error:
            raise type(error)(f"{label}: {error}") from None
        self.tokenizer = TextTokenizer(texts[TOKENIZER], self.facts)
        self.runner = PackRunner(loaded, config, **options)
        self._packing: PackingSpec = packing
        self._inputs = [
            (spec.name, np.dtype(spec.dtype)) for spec in loaded.inputs if spec.name in packing.dynamic_inputs
        ]
        by_name = {spec.name: spec for spec in loaded.outputs}
        self._outputs = [by_name[name] for name in self.facts.outputs]
        self._pool = ThreadPoolExecutor(TOKENIZER_THREADS, "poprt-tokenizer")  # its threads start when they are needed

    @property
    def task(self) -> str:
        """What the model is for, one of ``poprt.text.TASKS``."""
        return self.facts.task

    @property
    def max_length(self) -> int:
        """Most tokens of a text or pair, special ones included; more is cut off."""
        return self.facts.max_length

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels; empty where there are none."""
        return self.facts.labels

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts by name (a copy)."""
        return dict(self.facts.prompts)

    @property
    def dimension(self) -> int:
        """Length of an embedding; 0 for other tasks."""
        return self.facts.dimension

    def tokenize(
        self, texts: Sequence[Text], *, offsets: bool = False, add_special_tokens: bool = True
    ) -> list[Tokens]:
        """Tokenise without running; see :meth:`poprt.text.tokens.TextTokenizer.tokenize`. Texts are not checked."""
        return self.tokenizer.tokenize(texts, offsets=offsets, add_special_tokens=add_special_tokens)

    def submit(
        self,
        tokens: Sequence[Tokens],
        buffers: Sequence[dict[str, Array]] | None = None,
        *,
        first: int = 0,
        block: bool = True,
        flow: Flow | None = None,
    ) -> Submission:
        """Hand tokenised texts to the runner. They take turns with the texts of other calls.

        Args:
            tokens: what :meth:`tokenize` gave.
            buffers: for each text output name -> array to fill; None makes new ones.
            first: the number of the first text in messages.
            block: wait while the runner's queue is full. Else all texts are queued or none, at once.
            flow: where they block, the flow that they are part of, so that several calls take turns as one.

        Raises:
            InputError: a text has no tokens or, without ``block``, is not one that the executable takes.
            QueueFullError: without ``block``: the queue has no room for all of them.
            RunnerClosedError: the model is closed.
        """
        empty = next((number for number, item in enumerate(tokens) if not len(item)), None)
        if empty is not None:
            raise InputError(
                f"text {first + empty} has no tokens, and the tokenizer adds none: there is nothing to compute"
            )
        if buffers is None:
            buffers = [self.room(len(item)) for item in tokens]
        feeds = [self._feeds(item) for item in tokens]
        return Submission(tokens, buffers).send(self.runner, feeds, first=first, block=block, flow=flow)

    def _feeds(self, tokens: Tokens) -> dict[str, Array]:
        length = len(tokens)
        arrays: dict[str, Array] = {}
        for name, dtype in self._inputs:
            if name == "attention_mask":
                arrays[name] = np.ones(length, dtype)
            elif name == "position_ids":
                arrays[name] = np.arange(length, dtype=dtype)
            else:
                arrays[name] = (tokens.ids if name == "input_ids" else tokens.type_ids).astype(dtype, copy=False)
        return arrays

    def room(self, length: int, names: Collection[str] | None = None) -> dict[str, Array]:
        """Room for one text's answer: [length, ...] where it has one row a token.

        Args:
            length: its tokens.
            names: the executable's outputs that are wanted; None takes those of the task.
        """
        specs = (
            self._outputs if names is None else [spec for spec in self.runner.executable.outputs if spec.name in names]
        )
        return {
            spec.name: np.empty(
                (self._packing.places(length), *spec.shape[2:])
                if self._packing.outputs[spec.name] == "tokens"
                else spec.shape[1:],
                spec.dtype,
            )
            for spec in specs
        }

    def _check_task(self, *tasks: str) -> None:
        if self.facts.task not in tasks:
            raise PoprtError(f"the model is for {self.facts.task}; this needs one for {' or '.join(tasks)}")

    def close(self, cancel: bool = False) -> None:
        """Take no more texts. Those that wait are answered or, with ``cancel``, fail with RunnerClosedError."""
        self.runner.close(cancel)
        self._pool.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=error is not None)
